"""The fairseq task ``video_translate``: clips and prompts in, text out."""

import contextlib
import dataclasses
import logging
import math
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from fairseq.data import iterators
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.sequence_scorer import SequenceScorer
from fairseq.tasks import FairseqTask, register_task

from vt_fairseq.data.clips import BlankFrames, ClipCache, ClipLoader, FrameLoader
from vt_fairseq.data.dataset import VideoTextDataset
from vt_fairseq.data.dictionary import T5Dictionary
from vt_fairseq.data.epoch_iterator import ReusedBatchIterator
from vt_fairseq.data.head_targets import ANSWER, HeadTargets, parse_heads
from vt_fairseq.data.manifest import (
    CLASS_KINDS,
    ClipRow,
    DataDirectory,
    Manifest,
    UnconfirmedRootError,
    UnknownSplitError,
)
from vt_fairseq.data.prompts import (
    BUILT_IN,
    EARLY_ANSWER,
    Prompt,
    build_prompts,
    limit_targets,
    select_prompts,
)
from vt_fairseq.data.text import EARLY, TextOptions
from vt_fairseq.data.text_noise import TextNoise
from vt_fairseq.data.tokenizer import EOS, PAD, Tokenizer
from vt_fairseq.data.unknown_text import UnknownText
from vt_fairseq.data.unreadable_clips import UnreadableClips
from vt_fairseq.devices import check_gpus
from vt_fairseq.errors import FOLLOW_LINKS, UserError, naming
from vt_fairseq.files.result_files import PredictionFiles, Share, check_finite, refuse_nothing
from vt_fairseq.metrics.captions import BLEU_KEYS, bleu_counts, bleu_score
from vt_fairseq.models.checkpoint_state import vocabulary_state
from vt_fairseq.models.sequence_generator import SharedSourceGenerator
from vt_fairseq.models.step_graphs import CudaGraphs, StepGraphs
from vt_fairseq.models.video_backbones import input_of
from vt_fairseq.task_config import (
    COMPILED_LENGTHS,
    INPUT_OPTIONS,
    NOT_COMPILED,
    VideoTranslateTaskConfig,
)
from vt_fairseq.video.augmentation import Augmentation
from vt_fairseq.video.decoding import FrameSampling
from vt_fairseq.video.transforms import ClipTransform

logger = logging.getLogger(__name__)

INPUTS = "inputs"  # INPUT_OPTIONS of a checkpoint that is loaded to generate, in its task_state
# Where a split is missing, by default the one that a training measures on.
SPLIT_OPTIONS = (
    "--train-subset, --valid-subset and --gen-subset name splits, and --disable-validation trains "
    "without measuring"
)
TRAIN_ROWS = "train_rows"  # of a checkpoint's task_state: how many rows it was trained on

SPELLED_ROWS = 1000  # of a split are looked at for text that cannot be spelled, evenly spread

# A checkpoint keeps the class names up to so many (half a megabyte or so).
MAX_SAVED_CLASSES = 10_000


@register_task("video_translate", dataclass=VideoTranslateTaskConfig)
class VideoTranslateTask(FairseqTask):
    """Video understanding as machine translation (arXiv 2006.07203)."""

    cfg: VideoTranslateTaskConfig

    def __init__(
        self,
        cfg: VideoTranslateTaskConfig,
        data: DataDirectory | None,
        tokenizer: Tokenizer,
        classes: dict[str, list[str]],
    ):
        super().__init__(cfg)
        self.data = data
        self.tokenizer = tokenizer
        self.classes = classes
        self.dictionary = T5Dictionary(self.tokenizer)
        self.unreadable = UnreadableClips(cfg.max_bad_fraction)
        self.clip_cache = ClipCache(cfg.cache_clips * 1e9) if cfg.cache_clips else None
        self._predictions: PredictionFiles | None = None
        self._share: Share | None = None  # until there are batches
        self._missing = 0  # rows of generation whose clip could not be read
        self.heads: HeadTargets | None = None
        self._video_tokens: Callable[[int], int] | None = None
        self._network_input: dict[str, int | float] = {}
        self._validation_generator: SharedSourceGenerator | None = None
        self._inputs: dict[str, Any] | None = None  # of the models of an ensemble
        self.validated: list[dict[str, Any]] = []  # numbers of the splits, of the last update

    @classmethod
    def setup_task(cls, cfg: VideoTranslateTaskConfig, **kwargs) -> "VideoTranslateTask":
        """Open the data directory; raise UserError when it is not one."""
        if cfg.context and cfg.no_context:
            raise UserError("--context and --no-context: take one of them")
        if not cfg.data:
            raise UserError("expected the data directory that vt-prepare wrote, found none")
        if os.pathsep in cfg.data:
            raise UserError(
                f"data directory {cfg.data}: expected a name without {os.pathsep!r}, at which "
                "fairseq divides it into several: rename the directory"
            )
        if not cfg.cpu:
            check_gpus()
        data = DataDirectory.open(cfg.data, cfg.video_root or None, cfg.follow_links)
        with asking_for_root():
            _ = data.video_root  # now rather than at the first clip
        classes = {kind: data.classes(kind) for kind in CLASS_KINDS}
        return cls(cfg, data, Tokenizer.from_file(data.tokenizer_path), classes)

    @property
    def origin(self) -> str:
        """Where the classes come from, for messages."""
        return str(self.data.path) if self.data is not None else "the checkpoint"

    @property
    def source_dictionary(self) -> T5Dictionary:
        """T5's vocabulary."""
        return self.dictionary

    @property
    def target_dictionary(self) -> T5Dictionary:
        """T5's vocabulary."""
        return self.dictionary

    def max_positions(self) -> None:
        """Nothing is ever filtered by length: sources and targets are cut instead."""
        return None

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Kept in every checkpoint, which so needs no other file: vocabulary and class names."""
        splits = self.data.splits if self.data is not None else {}
        small = sum(map(len, self.classes.values())) <= MAX_SAVED_CLASSES
        return {
            **vocabulary_state(self.tokenizer),
            "classes": self.classes if small else {},
            "head_classes": self.heads.names() if self.heads is not None else {},
            TRAIN_ROWS: splits.get(self.cfg.train_subset, {}).get("rows"),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raise UserError when the checkpoint's vocabulary or classes are not the data's.

        Also when it is one of several whose models see their input in different ways.
        """
        self.compare_inputs(state_dict.get(INPUTS, {}))
        expected = state_dict.get("vocabulary_sha256")
        actual = vocabulary_state(self.tokenizer)["vocabulary_sha256"]
        if expected is not None and expected != actual:
            raise UserError(
                f"the model was trained with another vocabulary than {self.tokenizer.origin}: "
                f"sha256 {expected[:12]} expected, {actual[:12]} found; take the "
                "spiece.model of the training data (vt-prepare: --vocabulary)"
            )
        built = self._video_tokens is not None
        own = self.heads.names() if self.heads is not None else {}
        for name, classes in state_dict.get("head_classes", {}).items():
            # A model that has no such head leaves it out (fine-tuning), with its classes.
            if name != ANSWER and (not built or name in own):
                compare_classes(name, classes, self.classes.get(name, []), self.origin)

    # Building

    def build_model(self, cfg: FairseqDataclass, from_checkpoint: bool = False):
        """The model; the task learns from it how many tokens a clip has, and of its heads."""
        with naming("--heads"):
            names = parse_heads(cfg.heads)
            self.heads = HeadTargets.of(names, self.classes, self.origin) if names else None
        if self.heads is not None and self.cfg.eval_bleu:
            raise UserError("--eval-bleu does not go with --heads: they write no text")
        model = super().build_model(cfg, from_checkpoint)
        self._video_tokens = model.encoder.video.num_tokens
        self._network_input = input_of(model.encoder.video.network)
        if self.cfg.eval_bleu:
            self._validation_generator = SharedSourceGenerator(
                [model],
                self.dictionary,
                beam_size=self.cfg.eval_bleu_beam,
                max_len_b=self.cfg.eval_bleu_max_len,
            )
        return model

    def adopt_input_options(self, saved: FairseqDataclass) -> None:
        """Take from a checkpoint the input options that the command does not give."""
        defaults = VideoTranslateTaskConfig()
        for name in self.open_inputs():
            if name in saved and self.cfg[name] == getattr(defaults, name) != saved[name]:
                logger.info("%s = %s, from the checkpoint", name, saved[name])
                self.cfg[name] = saved[name]

    def open_inputs(self) -> list[str]:
        """The input options that the command does not give, so that a checkpoint does."""
        given = {*self.cfg.given.split(","), "no_context" if self.cfg.context else ""}
        return [name for name in INPUT_OPTIONS if name not in given]

    def compare_inputs(self, inputs: dict[str, Any]) -> None:
        """Raise UserError where the next model of an ensemble sees its input in another way."""
        before, self._inputs = self._inputs, inputs or self._inputs
        for name in self.open_inputs():
            if before and inputs and before.get(name) != inputs.get(name):
                raise UserError(
                    f"--path: models with --{name.replace('_', '-')} {before.get(name)} and "
                    f"{inputs.get(name)}; together they need the same input: say which"
                )

    def load_dataset(
        self, split: str, combine: bool = False, task_cfg: FairseqDataclass | None = None, **kwargs
    ) -> None:
        """Open one split. ``task_cfg``: the checkpoint's, given in generation and scoring.

        Only ``--train-subset``, and only while training, gets noise and augmentation.
        """
        if task_cfg is not None:
            self.adopt_input_options(task_cfg)
        assert self.data is not None  # setup_task opened it
        train = split == self.cfg.train_subset and task_cfg is None
        loader = self.clip_loader(self.data.video_root, train)
        try:
            rows, prompts = self.data.manifest(split), self.selected_prompts()
        except UnknownSplitError as error:
            raise UserError(f"{error}; {SPLIT_OPTIONS}") from error
        self.datasets[split] = self.build_dataset(rows, loader, prompts, train)
        self.warn_of_unknown_text(rows, prompts, split)
        if task_cfg is not None or (self.cfg.eval_bleu and not train):
            self.count_references(split)

    def warn_of_unknown_text(
        self, rows: Manifest, prompts: Sequence[Prompt], split: str, more: Sequence[str] = ()
    ) -> None:
        """Say how many texts of a split, its prompts and ``more`` the vocabulary cannot spell."""
        more = [*(prompt.fixed_text for prompt in prompts), *more]
        counts = UnknownText.of_split(self.tokenizer, rows, SPELLED_ROWS, more)
        if (warning := counts.warning(f"of the prompts and the split {split}")) is not None:
            logger.warning(warning)

    def count_references(self, split: str) -> None:
        """Say how many rows have no text to compare with; UserError where BLEU needs some."""
        dataset = self.datasets[split]
        without = rows_without_references(dataset)
        names = ",".join(prompt.name for prompt in dataset.prompts)
        if self.cfg.eval_bleu and without == len(dataset):
            raise UserError(
                f"--eval-bleu: expected references for {names}, found none in the {without} rows "
                f"of {split}: leave it out, or prepare annotations that have them"
            )
        if without:
            logger.warning(
                "%d of %d rows of %s have no references for %s: BLEU, exact match and vt-evaluate "
                "leave them out",
                *(without, len(dataset), split, names),
            )

    def clip_loader(self, video_root: Path | None, train: bool) -> ClipLoader:
        """What decodes and crops; plain values are read off the configuration here."""
        cfg = self.cfg
        return ClipLoader(
            video_root=video_root,
            sampling=FrameSampling(
                num_frames=cfg.num_frames,
                mode=str(cfg.frame_sampling),
                max_seconds=cfg.max_seconds or None,
                resample_fps=cfg.resample_fps or None,
                frames_per_second=cfg.frames_per_second,
            ),
            transform=ClipTransform(
                size=cfg.frame_size,
                train=train,
                flip_probability=0.0 if cfg.no_flip else 0.5,
                scales=self.crop_scales(),
                whole=cfg.whole_frame,
                augmentation=Augmentation(
                    rotation=cfg.rotate,
                    stretch=cfg.stretch,
                    shift=cfg.shift,
                    color=cfg.color_jitter,
                    gray=cfg.gray_clips,
                ),
            ),
            window="random" if train else cfg.test_window,
            blank=cfg.blank_video,
            follow_links=cfg.follow_links,
            link_suggestion=FOLLOW_LINKS,
            cache=self.clip_cache,
            time_jitter=cfg.time_jitter if train else 0.0,
        )

    def crop_scales(self) -> tuple[float, ...]:
        """The numbers of ``--crop-scales``."""
        try:
            return tuple(map(float, self.cfg.crop_scales.split(",")))
        except ValueError as error:
            raise UserError(
                "--crop-scales: expected numbers in (0, 1] with commas between them, found "
                f"{self.cfg.crop_scales!r}"
            ) from error

    def build_dataset(
        self, rows: Sequence[ClipRow], load_frames: FrameLoader, prompts: list[Prompt], train: bool
    ) -> VideoTextDataset:
        """Rows as batches; plain values are read off the configuration here."""
        cfg = self.cfg
        assert self._video_tokens is not None  # build_model comes first
        self.check_clips()
        return VideoTextDataset(
            rows=rows,
            load_frames=load_frames,
            num_video_tokens=self._video_tokens(cfg.num_frames),
            prompts=prompts,
            reuse_batch=cfg.reuse_batch,
            text=self.text_options(),
            seed=cfg.seed,
            train=train,
            heads=self.heads,
            blank_shape=(cfg.num_frames, cfg.frame_size, cfg.frame_size, 3)
            if dist.is_initialized() and dist.get_world_size() > 1
            else None,
            still_mix=cfg.still_mix,
            length_multiple=self.length_multiple() if train else 1,
        )

    def length_multiple(self) -> int:
        """What the lengths of training's texts are multiples of."""
        compiled = str(self.cfg.compile) != NOT_COMPILED
        return max(COMPILED_LENGTHS if compiled else 1, self.cfg.required_seq_len_multiple)

    def check_clips(self) -> None:
        """Raise UserError where the video network takes other clips than the options make."""
        for name in ("num_frames", "frame_size"):
            wanted, found = self._network_input.get(name), self.cfg[name]
            if wanted not in (None, found):
                option = f"--{name.replace('_', '-')}"
                raise UserError(f"{option} {found}: the video network takes {option} {wanted}")

    def text_options(self) -> TextOptions:
        """How texts become ids; plain values are read off the configuration here."""
        cfg = self.cfg
        return TextOptions(
            tokenizer=self.tokenizer,
            max_source_tokens=cfg.max_source_tokens,
            noise=TextNoise(
                mode=str(cfg.text_input),
                mask_amount=str(cfg.mask_amount),
                dropout=cfg.text_dropout,
                mask_id=self.tokenizer.mask,
            ),
            test_mask_tokens=cfg.test_mask_tokens if str(cfg.test_text) == "mask" else 0,
            context=not cfg.no_context,
            layout=str(cfg.source_layout),
        )

    def prompt_table(self) -> dict[str, Prompt]:
        """All prompts by name, those of ``--define-action`` among them."""
        definitions = [d.strip() for d in self.cfg.define_action.split(";") if d.strip()]
        with naming("--define-action"):
            early = {"answer": EARLY_ANSWER} if str(self.cfg.source_layout) == EARLY else {}
            prompts = build_prompts(definitions, {**BUILT_IN, **early})
        with naming("--max-target-tokens"):
            return limit_targets(prompts, self.cfg.max_target_tokens)

    def selected_prompts(self, names: str | None = None) -> list[Prompt]:
        """The prompts of a comma-separated list; None: of ``--action`` or ``--actions``.

        Heads have one, for its prompt.
        """
        fitting = "caption" if self.heads is None else self.heads.prompt_name
        wanted = names or self.cfg.action or self.cfg.actions or fitting
        table = self.prompt_table()
        try:
            prompts = select_prompts(table, wanted)
        except UserError as error:
            raise UserError(f"{error} (--define-action NAME=FIELD:PROMPT adds one)") from error
        if self.heads is not None and len(prompts) > 1:
            raise UserError(f"--actions {self.cfg.actions}: expected one action with --heads")
        return prompts

    def get_batch_iterator(
        self,
        dataset: VideoTextDataset,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        seed: int = 1,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 0,
        epoch: int = 1,
        data_buffer_size: int = 0,
        skip_remainder_batch: bool = False,
        grouped_shuffling: bool = False,
        **unused,
    ) -> iterators.EpochBatchIterator:
        """fairseq's iterator, or the one that uses each decoded batch for every action.

        Batches are made anew each epoch, from the seed and the epoch, so that a resumed run sees
        the same ones. Raises UserError where workers would cache clips, since these end with the
        epoch.
        """
        if self.clip_cache is not None and num_workers:
            raise UserError(
                "--cache-clips keeps clips in the process that trains: expected --num-workers 0, "
                f"found {num_workers}"
            )
        dataset.set_epoch(epoch)
        batches = dataset.batch_by_size(
            dataset.ordered_indices(),
            max_tokens=max_tokens,
            max_sentences=max_sentences,
        )
        self._share = Share(sum(map(len, batches[shard_id::num_shards])), shard_id, num_shards)
        uses = len(dataset.prompts) if dataset.reuse_batch else 1
        frequencies = self.cfg.update_freq  # of each epoch
        return ReusedBatchIterator(
            dataset=dataset,
            collate_fn=dataset.collater,
            batches=batches,
            seed=seed,
            num_shards=num_shards,
            shard_id=shard_id,
            num_workers=num_workers,
            epoch=epoch,
            buffer_size=data_buffer_size,
            skip_remainder_batch=skip_remainder_batch,
            grouped_shuffling=grouped_shuffling,
            uses=uses,
            group=int(frequencies[min(epoch, len(frequencies)) - 1]) if uses > 1 else 1,
        )

    # Training and validation

    def begin_epoch(self, epoch: int, model) -> None:
        """Called before each epoch of training: cuDNN tries which of its algorithms is fastest.

        The batches' shapes stay, and it guesses badly for convolutions over time: with it, the
        video network trains in 0.83 times the time in fp16 (benchmarks/results, H200).
        """
        super().begin_epoch(epoch, model)
        torch.backends.cudnn.benchmark = True

    def train_step(self, sample, *args, ignore_grad: bool = False, **kwargs):
        """Calls fairseq's method, and also logs unreadable clips and refuses too many of them.

        With ``ignore_grad`` the sample only fills up an epoch: it has no gradient, its sample size
        and what is logged of it are 0, and its clips are counted elsewhere.
        """
        self.unreadable.report(sample["unreadable"])
        try:
            if not ignore_grad:
                self.unreadable.count(sample["unreadable"], sample["num_decoded"])
        except UserError as error:
            suggestion = "check --video-root, or allow more by --max-bad-fraction"
            raise UserError(f"{error}; {suggestion}") from error
        loss, sample_size, logging_output = super().train_step(
            sample, *args, ignore_grad=ignore_grad, **kwargs
        )
        if ignore_grad:
            sample_size = sample_size * 0  # not in place: it may be the batch's own tensor
            logging_output = {name: value * 0 for name, value in logging_output.items()}
        return loss, sample_size, logging_output

    def valid_step(self, sample, model, criterion):
        """Loss and accuracy, and with ``--eval-bleu`` the counts that BLEU is made of."""
        self.unreadable.report(sample["unreadable"])
        loss, sample_size, logging_output = super().valid_step(sample, model, criterion)
        if self._validation_generator is not None:
            hypotheses = [
                "" if hypos is None else self.tokenizer.decode(hypos[0]["tokens"])
                for hypos in self.generate(self._validation_generator, sample)
            ]
            references = sample["references"]
            logging_output.update(bleu_counts(hypotheses, references))
            logging_output["exact"] = sum(
                h in refs for h, refs in zip(hypotheses, references, strict=True)
            )
            logging_output["referenced"] = sum(map(bool, references))
            if self.cfg.eval_bleu_print_samples:
                logger.info(
                    "%s: %s; expected %s",
                    sample["clip_ids"][0],
                    hypotheses[0] or "nothing",
                    " | ".join(references[0]) or "nothing",
                )
        return loss, sample_size, logging_output

    def post_validate(self, model, stats: dict[str, Any], agg) -> None:
        """Called by fairseq after each split; keeps the numbers of the last update's validation."""
        if self.validated and self.validated[0]["num_updates"] != stats["num_updates"]:
            self.validated = []
        self.validated.append(stats)

    @contextlib.contextmanager
    def blank_split(self, split: str) -> Iterator[str]:
        """The name of a split that has the texts of ``split`` and uniform gray for its videos.

        Nothing is generated while it lasts.
        """
        cfg, name = self.cfg, f"{split}, blank"
        frames = BlankFrames(cfg.num_frames, cfg.frame_size)
        self.datasets[name] = dataclasses.replace(self.datasets[split], load_frames=frames)
        generator, self._validation_generator = self._validation_generator, None
        try:
            yield name
        finally:
            self._validation_generator = generator
            del self.datasets[name]

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion) -> None:
        """The criterion's metrics, and corpus BLEU and exact match of ``--eval-bleu``."""
        super().reduce_metrics(logging_outputs, criterion)
        if not any("exact" in log for log in logging_outputs):
            return
        for key in (*BLEU_KEYS, "exact", "referenced"):
            total = sum(float(log.get(key, 0)) for log in logging_outputs)
            metrics.log_scalar_sum(f"_{key}", total)
        metrics.log_derived(
            "bleu",
            lambda meters: round(bleu_score([meters[f"_{key}"].sum for key in BLEU_KEYS]), 2),
        )
        metrics.log_derived(
            "exact_match",
            lambda meters: round(100 * meters["_exact"].sum / max(meters["_referenced"].sum, 1), 2),
        )

    # Generation

    def build_generator(self, models, args, **kwargs):
        """Calls fairseq's method with a faster generator; UserError for a model with heads."""
        if any(model.heads is not None for model in models):
            raise UserError("a model with heads writes no text; vt-score reads its classes")
        if len({model.encoder.video.num_tokens(self.cfg.num_frames) for model in models}) > 1:
            raise UserError("--path: the models make different numbers of tokens of a video")
        if args.sampling_topk > len(self.dictionary):
            raise UserError(
                f"--sampling-topk {args.sampling_topk}: the vocabulary has {len(self.dictionary)}"
            )
        for name, dataset in self.datasets.items() if args.prefix_size else ():
            if without := rows_without_references(dataset):
                raise UserError(
                    f"--prefix-size: {without} rows of {name} have no reference to begin with"
                )
        if self.cfg.results_path and self._share is not None:
            self._predictions = PredictionFiles(Path(self.cfg.results_path), self._share)
            if dist.is_initialized():
                dist.barrier()  # now all have thrown away what an earlier run left
            self._predictions.finish_if_whole()  # a process may have no rows at all
        if self._share is not None and self._share.rows == 0:
            raise NoRows(f"process {self._share.rank + 1} of {self._share.processes} has no rows")
        self.capture_steps(models)
        kwargs.setdefault("seq_gen_cls", SharedSourceGenerator)
        return super().build_generator(models, args, **kwargs)

    def capture_steps(self, models: Sequence[Any]) -> None:
        """With ``--cuda-graphs``, have a GPU replay the steps of generation and scoring."""
        for model in models if self.cfg.cuda_graphs else ():
            device = model.decoder.embed_tokens.weight.device
            if device.type != "cuda":
                raise UserError("--cuda-graphs needs a GPU")
            model.decoder.graphs = model.decoder.graphs or StepGraphs(CudaGraphs(device))

    def generate(self, generator, sample, prefix_tokens=None, models=None):
        """fairseq's hypotheses for each row; None for a row whose clip could not be read.

        Of ``--score-reference`` they are the references, None for a row that has none.
        """
        absent = sample["missing"].tolist()
        if isinstance(generator, SequenceScorer):
            absent = [not refs or a for refs, a in zip(sample["references"], absent, strict=True)]
            if sample["target"] is None:
                return [None] * len(absent)
        hypos = generator.generate(models, sample, prefix_tokens=prefix_tokens, bos_token=PAD)
        return [None if gone else h for h, gone in zip(hypos, absent, strict=True)]

    def inference_step(self, generator, models, sample, prefix_tokens=None, constraints=None):
        """Called by fairseq-generate; with ``--results-path`` also writes predictions.jsonl.

        A row whose clip could not be read gets an empty hypothesis with score -inf.
        """
        self.unreadable.report(sample["unreadable"])
        hypos = self.generate(generator, sample, prefix_tokens, models)
        for clip_id, own in zip(sample["clip_ids"], hypos, strict=True):
            if own is not None:
                check_finite([float(h["score"]) for h in own], clip_id)
        self._missing += sample["num_missing"]
        if self._share is not None and self._share.processes == 1:
            refuse_nothing(self._missing, self._share.rows)
        if self._predictions is not None:
            best = [None if h is None else h[0] for h in hypos]
            texts = [None if h is None else self.tokenizer.decode(h["tokens"]) for h in best]
            scores = [None if h is None else float(h["score"]) for h in best]
            self._predictions.write(sample["clip_ids"], sample["references"], texts, scores)
        return [h if h is not None else [empty_hypothesis()] for h in hypos]


@contextlib.contextmanager
def asking_for_root() -> Iterator[None]:
    """Say by which option a folder of videos is confirmed."""
    try:
        yield
    except UnconfirmedRootError as error:
        confirmed = f"--video-root {shlex.quote(str(error.root))}"
        raise UserError(f"{error}; if it is the right one, confirm it: {confirmed}") from error


class NoRows(UserError):
    """There is nothing to generate for, which is no mistake of a process that shares the rows."""


def rows_without_references(dataset: VideoTextDataset) -> int:
    """How many rows have no text to compare with for any of the prompts."""
    return sum(
        not any(prompt.references(row) for prompt in dataset.prompts) for row in dataset.rows
    )


def compare_classes(name: str, saved: list[str], actual: list[str], where: str) -> None:
    """Raise UserError where the classes of a head are not those that ``where`` has."""
    if saved == actual:
        return
    missing, new = sorted(set(saved) - set(actual)), sorted(set(actual) - set(saved))
    examples = [f"it lacks {missing[0]!r}"] if missing else []
    examples += [f"it has {new[0]!r} beside them"] if new else []
    raise UserError(
        f"the model's head {name} was trained on {len(saved)} classes, {where} has {len(actual)}: "
        f"{' and '.join(examples) or 'the order differs'}; prepare all splits together, so that "
        "they share their class lists"
    )


def empty_hypothesis() -> dict[str, Any]:
    """What fairseq-generate prints for a row whose clip could not be read."""
    return {
        "tokens": torch.tensor([EOS]),
        "score": torch.tensor(-math.inf),
        "alignment": None,
        "positional_scores": torch.tensor([-math.inf]),
        "attention": None,
    }
