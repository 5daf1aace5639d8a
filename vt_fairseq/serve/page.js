// Texts of others become text nodes, never markup. Segments are asked for by their numbers.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const QUICK = 200; // segments whose captions share most words
  const EVERY = 1000; // milliseconds between looks at what is being added
  const list = byId("results");
  let asked = 0; // questions so far: an answer to an older one is not shown
  let offset = null; // of the list of all segments
  let player = null; // the card that plays

  // --- elements ----------------------------------------------------------------------------------

  function make(tag, name, ...children) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    element.append(...children.map((c) => (c instanceof Node ? c : document.createTextNode(c))));
    return element;
  }

  function button(text, action) {
    const element = make("button", "", text);
    element.type = "button";
    element.addEventListener("click", action);
    return element;
  }

  function say(text, isError = false) {
    byId("message").textContent = text;
    byId("message").classList.toggle("error", isError);
  }

  function clock(seconds) {
    const whole = Math.floor(seconds);
    const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
    if (!parts[0]) parts.shift();
    return parts.map((p, k) => (k ? String(p).padStart(2, "0") : String(p))).join(":");
  }

  // --- the server --------------------------------------------------------------------------------

  async function request(path, value) {
    const options = value === undefined ? {} : {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value),
    };
    let response;
    try {
      response = await fetch(path, options);
    } catch {
      throw new Error("vt-serve does not answer: has it ended?");
    }
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(answer.error || `vt-serve failed (${response.status})`);
    return answer;
  }

  // Show what an answer becomes, unless something else was asked meanwhile.
  async function show(waiting, path, value, shown) {
    const own = ++asked;
    say(waiting);
    try {
      const answer = await request(path, value);
      if (own === asked) shown(answer);
    } catch (error) {
      if (own === asked) say(error.message, true);
    }
  }

  // --- results -----------------------------------------------------------------------------------

  function fill(segments, text) {
    stopPlaying();
    list.replaceChildren(...segments.map(card));
    byId("more").hidden = true;
    offset = null;
    say(text);
  }

  function search(query) {
    const top = Number(byId("top").value);
    const value = byId("quick").checked ? { query, top, shortlist: QUICK } : { query, top };
    show("Searching …", "search", value, (answer) => {
      const count = answer.results.length;
      fill(answer.results, `${count} ${count === 1 ? "moment" : "moments"}, likeliest first, in ` +
        `${answer.seconds.toFixed(2)} s`);
    });
  }

  function like(segment) {
    const value = { like: segment.id, top: Number(byId("top").value) };
    show("Searching …", "search", value, (answer) => {
      fill(answer.results, `What looks like ${title(segment)}, most similar first`);
      window.scrollTo(0, 0);
    });
  }

  function all(start) {
    show("Reading …", `segments?offset=${start}`, undefined, (answer) => {
      if (start === 0) fill([], "");
      list.append(...answer.segments.map(card));
      offset = start + answer.segments.length;
      byId("more").hidden = !answer.segments.length;
      say(answer.segments.length ? `${offset} segments shown` : "No more segments");
    });
  }

  function title(segment) {
    if (segment.whole || segment.end === null) return segment.name;
    return `${segment.name} ${clock(segment.start)} – ${clock(segment.end)}`;
  }

  function card(segment) {
    const item = make("li", "");
    item.tabIndex = -1;
    const score = segment.score === undefined ? "" : ` · ${segment.score.toFixed(2)}`;
    const name = make("p", "quiet", title(segment) + score);
    name.title = segment.path;
    const caption = make("h2", "", segment.caption || (segment.error ? "Not read" : "(no words)"));
    const words = make("div", "words", caption, name);
    item.append(screen(segment, item), words);
    if (segment.error) {
      words.append(make("p", "error", segment.error));
      return item;
    }
    const form = askForm(segment);
    const ask = button("Ask", () => {
      form.hidden = !form.hidden;
      ask.setAttribute("aria-expanded", String(!form.hidden));
      if (!form.hidden) form.querySelector("input").focus();
    });
    ask.setAttribute("aria-expanded", "false");
    ask.dataset.key = "a";
    const more = button("More like this", () => like(segment));
    more.dataset.key = "m";
    words.append(make("div", "row", ask, more), form);
    return item;
  }

  // --- pictures and playing ----------------------------------------------------------------------

  function screen(segment, item) {
    if (segment.error) return make("div", "screen", "");
    const image = make("img", "");
    image.alt = "";
    image.loading = "lazy";
    image.src = `segments/${segment.id}/picture`;
    image.addEventListener("error", () => image.replaceWith(make("p", "quiet", "no picture")));
    if (!segment.plays) return make("div", "screen", image);
    const play = make("button", "screen", image);
    play.type = "button";
    play.dataset.key = "p";
    play.setAttribute("aria-label", `Play ${title(segment)}`);
    play.addEventListener("click", () => {
      stopPlaying();
      const video = make("video", "");
      video.controls = video.autoplay = video.playsInline = true;
      const part = segment.whole ? "" : `#t=${segment.start},${segment.end}`;
      video.src = `segments/${segment.id}/video${part}`;
      const shown = make("div", "screen", video);
      video.addEventListener("error", () => explain(segment, shown));
      play.replaceWith(shown);
      player = { item, shown, play, video };
      video.focus();
    });
    return play;
  }

  function stopPlaying() {
    if (!player) return false;
    player.video.pause();
    player.video.removeAttribute("src");
    player.video.load();
    player.shown.replaceWith(player.play);
    player = null;
    return true;
  }

  async function explain(segment, shown) {
    if (!shown.isConnected) return;
    const answer = await fetch(`segments/${segment.id}/video`, { headers: { Range: "bytes=0-0" } })
      .catch(() => null);
    const found = answer && !answer.ok ? await answer.json().catch(() => ({})) : {};
    const reason = found.error || "this browser does not play this kind of file";
    shown.replaceChildren(make("p", "error", `${segment.name}: ${reason}`));
  }

  // --- asking ------------------------------------------------------------------------------------

  function askForm(segment) {
    const question = make("input", "");
    question.maxLength = 1000;
    question.placeholder = "what is it ?";
    question.required = true;
    const candidates = make("textarea", "");
    candidates.rows = 2;
    candidates.placeholder = "one per line; none: an answer in free words";
    const send = make("button", "main", "Ask");
    const answers = make("ul", "answers");
    answers.setAttribute("aria-live", "polite");
    const form = make("form", "ask", make("label", "", "Question", question),
      make("label", "", "Answers to choose from", candidates), send, answers);
    form.hidden = true;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (form.ariaBusy === "true") return; // a disabled button would lose the focus
      const texts = candidates.value.split("\n").map((t) => t.trim()).filter(Boolean);
      const value = { segment: segment.id, question: question.value, candidates: texts };
      form.ariaBusy = "true";
      answers.replaceChildren(make("li", "quiet", "Asking …"));
      try {
        const answer = await request("ask", value);
        answers.replaceChildren(...answer.answers.map((one) => answered(one, texts.length > 1)));
      } catch (error) {
        answers.replaceChildren(make("li", "error", error.message));
      }
      form.ariaBusy = "false";
    });
    return form;
  }

  function answered(one, among) {
    if (!among) return make("li", "", one.text || "(no words)");
    const share = `${(100 * one.probability).toFixed(1)} %`;
    const bar = make("meter", "");
    bar.value = one.probability;
    bar.setAttribute("aria-hidden", "true");
    return make("li", "", make("span", "", one.text, make("b", "", share)), bar);
  }

  // --- what there is, and adding -----------------------------------------------------------------

  const count = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;

  async function look() {
    let status;
    try {
      status = await request("status");
    } catch (error) {
      byId("counts").textContent = error.message;
      return;
    }
    const name = status.name;
    document.title = byId("name").textContent = name;
    const unread = status.unread ? `, ${status.unread.toLocaleString("en")} not read` : "";
    const what = `${count(status.segments, "segment")} of ${count(status.videos, "video")}${unread}`;
    if (byId("counts").textContent !== what) byId("counts").textContent = what;
    byId("adding").hidden = !status.may_add;
    showIndexing(status.indexing);
  }

  function showIndexing(job) {
    const runs = Boolean(job) && job.state === "running";
    byId("indexing").hidden = !job;
    byId("stop").hidden = !runs;
    byId("add").querySelector("[type=submit]").disabled = runs;
    if (!job) return;
    byId("adding").open = true;
    byId("bar").max = Math.max(1, job.videos);
    byId("bar").value = job.done;
    const left = job.done ? (job.seconds / job.done) * (job.videos - job.done) : 0;
    const estimate = runs && job.done ? `, about ${clock(left)} left` : "";
    const failed = job.failed ? `, ${job.failed.toLocaleString("en")} not read` : "";
    const end = { running: "", done: ": done", stopped: ": stopped" }[job.state] ?? `: ${job.state}`;
    byId("progress").textContent = `${job.folder}: ${job.done.toLocaleString("en")} of ` +
      `${count(job.videos, "video")}${failed}, ${clock(job.seconds)}${estimate}${end}`;
    byId("failures").replaceChildren(
      ...job.failures.map(([video, reason]) => make("li", "", `${video}: ${reason}`)));
    if (runs) setTimeout(look, EVERY);
  }

  byId("add").addEventListener("submit", async (event) => {
    event.preventDefault();
    const every = byId("every").value;
    try {
      await request("index", { folder: byId("folder").value, every: every ? Number(every) : null });
      say("");
    } catch (error) {
      say(error.message, true);
      byId("message").scrollIntoView({ block: "nearest" });
    }
    look();
  });

  byId("stop").addEventListener("click", () => request("stop", {}).then(look, look));

  // --- searching, keys ---------------------------------------------------------------------------

  function open() {
    const query = decodeURIComponent(location.hash.replace(/^#/, "").replace(/^q=/, ""));
    if (!query) return all(0);
    byId("query").value = query;
    return search(query);
  }

  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    const hash = `#q=${encodeURIComponent(byId("query").value.trim())}`;
    if (hash === "#q=") all(0);
    else if (location.hash === hash) open();
    else location.hash = hash; // going back in the browser finds the query again
  });
  byId("all").addEventListener("click", () => {
    byId("query").value = "";
    if (location.hash) location.hash = "";
    else all(0);
  });
  byId("more").addEventListener("click", () => all(offset));
  window.addEventListener("hashchange", open);

  function move(step) {
    const cards = [...list.children];
    const at = cards.findIndex((one) => one.contains(document.activeElement));
    const next = cards[Math.min(cards.length - 1, Math.max(0, at + step))];
    if (next) next.focus();
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") {
      const card = document.activeElement.closest("#results > li") || (player && player.item);
      const form = card && card.querySelector("form.ask:not([hidden])");
      if (!stopPlaying() && form) form.closest(".words").querySelector("[data-key=a]").click();
      if (card) card.focus();
      return;
    }
    if (event.target.matches("input, textarea, select")) return;
    const card = document.activeElement.closest("#results > li");
    const pressed = card && /^[pam]$/.test(event.key) && card.querySelector(`[data-key=${event.key}]`);
    if (event.key === "/") byId("query").select();
    else if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else if (pressed) pressed.click();
    else return;
    event.preventDefault();
  });

  // The token is in a cookie now; it need not stand in the address or the history.
  if (location.search) history.replaceState(null, "", location.pathname + location.hash);
  look();
  open();
})();
