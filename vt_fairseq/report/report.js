"use strict";
// The rows of one result at a time, filtered. Data come into the page as text alone (textContent).
(() => {
  const AT_ONCE = 24;
  const byId = (id) => document.getElementById(id);
  const select = byId("result");
  if (!select) return;
  const pictures = JSON.parse(byId("pictures").textContent);
  const search = byId("search"), order = byId("order"), cards = byId("cards");
  const OUTCOMES = {
    captions: { right: "exact", wrong: "not exact", missing: "missing", open: "no reference" },
    other: { right: "right", wrong: "wrong", missing: "missing", open: "answer not known" },
  };
  const large = byId("large");
  let result, outcome = "", matching = [], shown = 0;

  function make(tag, className, ...children) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    for (const child of children) if (child !== null && child !== undefined) element.append(child);
    return element;
  }

  // What comes from the data: any direction of writing, kept apart from the text around it.
  function text(tag, className, value) {
    const element = make(tag, className, String(value));
    element.dir = "auto";
    return element;
  }

  function load(number) {
    result = JSON.parse(byId(`result-${number}`).textContent);
    result.byId = new Map(result.rows.map((row) => [row.id, row]));
    select.value = String(number);
    outcome = "";
    byId("result-notes").replaceChildren(...result.notes.map((note) => text("li", "", note)));
    cards.classList.toggle("wide-cards", result.kind === "retrieval");
    outcomeButtons();
    filter();
  }

  function names() {
    return OUTCOMES[result.kind] || OUTCOMES.other;
  }

  function outcomeButtons() {
    const buttons = [["", "all"], ...Object.entries(names())].flatMap(([key, name]) => {
      const count = key ? result.counts[key] || 0 : result.total;
      if (key === "open" && !count) return [];
      const button = make("button", "", `${name} ${count.toLocaleString("en")}`);
      button.type = "button";
      button.setAttribute("aria-pressed", String(key === outcome));
      button.addEventListener("click", () => {
        outcome = key;
        for (const other of button.parentNode.children) {
          other.setAttribute("aria-pressed", String(other === button));
        }
        filter();
      });
      return [button];
    });
    byId("outcomes").replaceChildren(...buttons);
  }

  function haystack(row) {
    if (row.words === undefined) {
      const bars = (row.bars || []).map((bar) => bar[0]);
      const parts = [row.id, row.asked, row.prediction, row.clip, row.reason, row.target];
      const lists = [...(row.references || []), ...(row.captions || []), ...bars];
      row.words = [...parts, ...lists].join("\n").toLowerCase();
    }
    return row.words;
  }

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    matching = result.rows.filter((row) =>
      (!outcome || row.outcome === outcome) && words.every((word) => haystack(row).includes(word)));
    if (order.value === "id") {
      matching.sort((a, b) => a.id.localeCompare(b.id, "en", { numeric: true }));
    }
    shown = 0;
    cards.replaceChildren();
    more();
  }

  function more() {
    const next = matching.slice(shown, shown + AT_ONCE);
    cards.append(...next.map(card));
    shown += next.length;
    const left = result.total - result.rows.length;
    byId("count").textContent =
      `${matching.length.toLocaleString("en")} of ${result.total.toLocaleString("en")} rows` +
      (shown < matching.length ? `, the first ${shown} shown` : "") +
      (left ? `; ${left.toLocaleString("en")} rows are left out to keep the file small` : "");
    byId("more").hidden = shown >= matching.length;
  }

  // --- one row -----------------------------------------------------------------------------------

  function card(row) {
    const outcome = make("span", `outcome ${row.outcome}`, names()[row.outcome]);
    const article = make("article", "", make("header", "", text("h3", "", row.id), outcome));
    if (result.kind === "retrieval") retrieval(article, row);
    else {
      article.append(frames(row.id));
      if (row.clip) article.append(text("p", "quiet", row.clip));
      if (row.asked) article.append(text("p", "asked", row.asked));
      texts(article, row);
      if (row.bars) article.append(bars(row.bars));
      article.append(make("p", "quiet", remarks(row)));
    }
    return article;
  }

  function frames(id) {
    const picture = pictures[result.pictures[id]];
    if (!picture) return result.no_picture ? make("div", "none", result.no_picture) : "";
    if (picture.reason) return text("div", "none", `no picture: ${picture.reason}`);
    const button = make("button", "frames", ...images(picture));
    button.type = "button";
    button.setAttribute("aria-label", picture.video ? "Play the clip" : "Enlarge the pictures");
    button.addEventListener("click", () => enlarge(id, picture));
    return button;
  }

  function images(picture) {
    return picture.frames.map((frame) => {
      const image = make("img", "");
      image.alt = "";
      image.src = `data:image/jpeg;base64,${frame}`;
      return image;
    });
  }

  // The browser asks for the video now and not before.
  function enlarge(id, picture) {
    const parts = [make("div", "frames", ...images(picture))];
    if (picture.video) {
      const video = make("video", "");
      video.controls = true;
      video.autoplay = true;
      video.muted = true;
      video.addEventListener("error", () => {
        video.replaceWith(text("p", "none", "The browser cannot play this video beside the page."));
      });
      video.src = picture.video;
      parts.unshift(video);
    }
    byId("large-title").textContent = id;
    byId("large-content").replaceChildren(...parts);
    large.showModal();
  }

  function texts(article, row) {
    const list = make("dl", "texts");
    const add = (name, values) => {
      if (values.length) list.append(make("dt", "", name), ...values.map((v) => text("dd", "", v)));
    };
    if (row.reason) add("Reason", [row.reason]);
    if (row.captions) add("Own caption", row.captions);
    if (row.prediction !== undefined && !(row.bars && row.asked)) add("Prediction", [row.prediction]);
    else if (row.prediction === undefined && row.outcome !== "missing") add("Prediction", ["(empty)"]);
    const references = row.references || [];
    const extra = row.more ? [`and ${row.more} more`] : [];
    if (!(row.bars && row.asked)) {
      add(references.length > 1 ? "References" : "Reference", [...references, ...extra]);
    }
    if (list.children.length) article.append(list);
  }

  function bars(entries) {
    return make("ul", "bars", ...entries.map(([name, score, share, right, chosen]) => {
      const kind = `${right ? "right" : "wrong"} ${chosen ? "chosen" : ""}`;
      const marks = [right ? "right" : "", chosen ? "chosen" : ""].filter(Boolean).join(", ");
      const item = make("li", kind, text("span", "", name));
      item.append(make("span", "score", [marks, score === null ? "" : `${(100 * share).toFixed(1)} %`]
        .filter(Boolean).join(" · ")));
      if (score !== null) {
        item.title = `score ${score}`;
        const bar = make("div", "");
        bar.style.width = `${100 * share}%`;
        item.append(make("div", "track", bar));
      }
      return item;
    }));
  }

  function remarks(row) {
    return [
      row.overlap !== undefined ? `${Math.round(100 * row.overlap)} % of the words in common` : "",
      row.score !== undefined ? `score ${row.score}` : "",
      row.rank !== undefined && row.bars ? `the right class has rank ${row.rank}` : "",
    ].filter(Boolean).join(" · ");
  }

  function retrieval(article, row) {
    article.append(text("p", "asked", row.asked || "(the query is not known)"));
    if (row.reason) article.append(text("p", "", row.reason));
    const target = row.target || row.id;
    const rank = row.rank === undefined ? "not ranked" : `rank ${row.rank}`;
    const grid = make("div", "grid-of-clips", clip(target, `right clip, ${rank}`, true));
    (row.top || []).forEach((id, k) => grid.append(clip(id, String(k + 1), id === target)));
    article.append(grid);
  }

  function clip(id, heading, isTarget) {
    const known = result.byId.get(id);
    const words = known && known.asked ? known.asked : id;
    return make("figure", isTarget ? "target" : "", make("b", "", heading), frames(id),
      text("figcaption", "quiet", words));
  }

  // --- events ------------------------------------------------------------------------------------

  select.addEventListener("change", () => load(Number(select.value)));
  search.addEventListener("input", filter);
  order.addEventListener("change", filter);
  search.form.addEventListener("submit", (event) => event.preventDefault());
  byId("more").addEventListener("click", () => {
    const first = cards.children.length;
    more();
    const next = cards.children[first];
    if (next) { next.tabIndex = -1; next.focus(); }
  });
  byId("close").addEventListener("click", () => large.close());
  large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
  large.addEventListener("close", () => byId("large-content").replaceChildren());
  for (const link of document.querySelectorAll("a[data-result]")) {
    link.addEventListener("click", () => load(Number(link.dataset.result)));
  }
  load(0);
})();
