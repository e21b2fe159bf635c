"""The training loop of an adaptation: steps, exams, checkpoints, the best state kept."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from encoders.adaptation import AdaptationConfig, Stage
from encoders.base import EncoderError
from encoders.lessons import Lesson, contrastive_loss
from encoders.loading import check_prompt, half_precision, load_model
from encoders.packed import PackedBert, runs_of
from encoders.settings import read_settings
from encoders.transformer import pool
from encoders.weights import ADAPTER_FILES, weights_hash

logger = logging.getLogger(__name__)

_TOKENS_KEPT = 400_000  # whose vectors below the layers that change are kept; MiniLM: 0.6 GB
_TOKENS_AT_ONCE = 4096  # padding included; longer batches are run in parts
_ORTHOGONAL = 0.5  # weight of AdaLoRA's own regulariser, as in its paper


class Learner:
    """A model with an adapter in training.

    Args:
        config: settings.
        folder: the model's files.
        device: where to train.
        start: an adapter to begin with.
    """

    def __init__(
        self, config: AdaptationConfig, folder: Path, device: str, start: str | Path | None
    ) -> None:
        from peft import get_peft_model

        self.config = config
        self.base_weights = weights_hash(folder)
        self.settings = read_settings(folder)
        loaded = load_model(self.settings, device, "float32")
        self.device, self.tokenizer = loaded.device, loaded.tokenizer
        self._limit = min(config.max_tokens, self.settings.max_tokens)
        check_prompt(self.tokenizer, self.settings.prompt, self._limit, "this adaptation")
        self.half = half_precision(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            first, targets = _upper_linears(loaded.model, config.layers)
            lower = loaded.packed  # made before the adapter wraps layers: it does not see them
            self.model = get_peft_model(loaded.model, _peft_config(config, targets))
            self.model.to(self.device)
        self._run = (
            _PackedRun(self.model, lower, first) if isinstance(lower, PackedBert) else self._padded
        )
        self.weights = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self._ids: dict[str, np.ndarray] = {}
        self._resumed: dict[str, Any] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        if start is not None:
            self._begin_with(Path(start))

    def _begin_with(self, start: Path) -> None:
        from safetensors.torch import load_file

        if self.config.method != "lora":
            raise EncoderError("only method 'lora' can begin with an adapter; leave start= out")
        found = load_file(start / ADAPTER_FILES[1])
        with torch.no_grad():
            for key, weight in self.weights.items():
                given = found.get(key.replace(".default.", "."))
                if given is None or given.shape != weight.shape:
                    raise EncoderError(
                        f"{start} has other layers than these settings ({key}); begin with an "
                        "adapter of the same model, rank and layers"
                    )
                weight.copy_(given)
                if "lora_A" in key:  # saved so that B A counts once
                    weight.div_(self.config.alpha / self.config.rank)

    def learn(
        self,
        name: str,
        lesson: Lesson,
        stage: Stage,
        checkpoint: Path,
        mark: str,
        stages: dict[str, Any],
        progress: bool,
    ) -> dict[str, Any]:
        """Teach one lesson; afterwards the weights are those with the best mark.

        Args:
            name: of the stage.
            lesson: what to learn.
            stage: how.
            checkpoint: file to save the state to after each exam.
            mark: what the checkpoint must have been made for.
            stages: reports of the stages before.
            progress: show a bar.

        Returns:
            A report: marks by step, the best, what was kept.
        """
        from tqdm.auto import tqdm

        if name in stages:
            return stages[name]
        optimiser = torch.optim.AdamW(self.weights.values(), weight_decay=stage.weight_decay)
        state = self._resumed if self._resumed.get("stage") == name else {}
        if state:
            step, marks, losses = state["step"], state["marks"], state["losses"]
            best = self._restore(optimiser)
        else:
            step, losses, best = 0, [], self._copied()
            marks = [[0, self._mark(lesson)]]
        with tqdm(
            total=stage.steps, initial=step, desc=name, unit=" steps", disable=not progress
        ) as bar:
            while step < stage.steps and not _has_stopped(marks, stage):
                losses.append(self._step(lesson, stage, optimiser, step, name))
                step += 1
                bar.update()
                if step % stage.examine_every == 0 or step == stage.steps:
                    now = self._mark(lesson)
                    if now > max(m for _, m in marks):
                        best = self._copied()
                    marks.append([step, now])
                    bar.set_postfix(loss=np.mean(losses[-stage.examine_every :]), mark=now)
                    logger.info("%s, step %d: loss %.4f, mark %.4f", name, step, losses[-1], now)
                    told = {"stage": name, "step": step, "marks": marks, "losses": losses}
                    self._save(
                        checkpoint, {**told, "mark": mark, "stages": stages}, optimiser, best
                    )
        with torch.no_grad():
            for key, value in best.items():
                self.weights[key].copy_(value)
        kept = max(marks, key=lambda m: (m[1], -m[0]))
        return {
            "examples": lesson.num_examples,
            "texts": len(lesson.texts),
            "steps": step,
            "mark_before": round(marks[0][1], 5),
            "best_mark": round(kept[1], 5),
            "best_step": kept[0],
            "marks": [[s, round(m, 5)] for s, m in marks],
            "loss_first_and_last": [round(float(np.mean(part)), 4) for part in _ends(losses)],
        }

    def _step(
        self, lesson: Lesson, stage: Stage, optimiser: torch.optim.Optimizer, step: int, name: str
    ) -> float:
        """One step of the optimiser; the batches depend on seed, stage and step alone."""
        rate = stage.learning_rate * _rate(step, stage)
        for group in optimiser.param_groups:
            group["lr"] = rate
        self.model.train()
        total = 0.0
        for part in range(stage.accumulate):
            seeds = [self.config.seed, len(name), step, part]
            batch = lesson.batch(np.random.default_rng(seeds))
            torch.manual_seed(int(np.random.default_rng(seeds).integers(2**31)))
            vectors = self._vectors([lesson.texts[row] for row in batch.rows])
            loss = contrastive_loss(batch, vectors, stage.temperature) + self._orthogonality()
            (loss / stage.accumulate).backward()
            total += float(loss.detach()) / stage.accumulate
        if not np.isfinite(total):
            raise EncoderError(
                f"{name}, step {step}: the loss is {total}; lower learning_rate or raise "
                "temperature"
            )
        torch.nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
        optimiser.step()
        if self.config.method == "adalora":
            before = self.config.triples.steps if name == "tastes" else 0
            self.model.base_model.update_and_allocate(before + step)
        optimiser.zero_grad(set_to_none=True)
        return total

    def _vectors(self, texts: list[str]) -> torch.Tensor:
        """Unit vectors with gradients, ``[len(texts), dim]``; like lengths run together."""
        tokens = [self._tokens(text) for text in texts]
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]), reverse=True)
        out, start = [], 0
        while start < len(order):
            some = order[start : start + max(1, _TOKENS_AT_ONCE // len(tokens[order[start]]))]
            out.append(self._run([tokens[i] for i in some], self.settings.pooling))
            start += len(some)
        back = torch.empty(len(order), dtype=torch.long)
        back[order] = torch.arange(len(order))
        return functional.normalize(torch.cat(out)[back.to(self.device)], dim=1)

    def _padded(self, tokens: list[np.ndarray], pooling: str) -> torch.Tensor:
        """Vectors of texts, longest first, by the whole model."""
        ids = np.zeros((len(tokens), len(tokens[0])), np.int64)
        mask = np.zeros_like(ids)
        for row, one in enumerate(tokens):
            ids[row, : len(one)], mask[row, : len(one)] = one, 1
        attention = torch.from_numpy(mask).to(self.device)
        with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
            hidden = self.model(
                input_ids=torch.from_numpy(ids).to(self.device), attention_mask=attention
            )[0]
        return pool(hidden.float(), attention, pooling)

    def _tokens(self, text: str) -> np.ndarray:
        if text not in self._ids:
            told = self.settings.prompt + text
            ids = self.tokenizer(told, truncation=True, max_length=self._limit)
            self._ids[text] = np.array(ids["input_ids"], np.int32)
        return self._ids[text]

    def _mark(self, lesson: Lesson) -> float:
        self.model.eval()
        rows, out = lesson.exam(), []
        with torch.inference_mode():
            for start in range(0, len(rows), 64):
                some = [lesson.texts[row] for row in rows[start : start + 64]]
                out.append(self._vectors(some).cpu().numpy())
        return lesson.mark(np.concatenate(out)) if out else 0.0

    def _orthogonality(self) -> torch.Tensor | float:
        """AdaLoRA's penalty on directions that are not orthonormal (Zhang et al. 2023, eq. 4)."""
        if self.config.method != "adalora":
            return 0.0
        found = []
        for key, weight in self.weights.items():
            if "lora_A" in key or "lora_B" in key:
                inner = weight @ weight.T if "lora_A" in key else weight.T @ weight
                found.append((inner - torch.eye(len(inner), device=inner.device)).norm())
        return _ORTHOGONAL * torch.stack(found).mean()

    def _copied(self) -> dict[str, torch.Tensor]:
        return {key: value.detach().cpu().clone() for key, value in self.weights.items()}

    def _save(
        self,
        path: Path,
        told: dict[str, Any],
        optimiser: torch.optim.Optimizer,
        best: dict[str, torch.Tensor],
    ) -> None:
        """Weights, best weights and the optimiser's state in one file, replaced as a whole."""
        from safetensors.torch import save_file

        tensors = {f"now.{key}": value for key, value in self._copied().items()}
        tensors |= {f"best.{key}": value for key, value in best.items()}
        for key, weight in self.weights.items():
            for what, value in optimiser.state[weight].items():
                tensors[f"optimiser.{what}.{key}"] = value.detach().cpu().clone()
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(path.name + ".new")
        save_file(tensors, new, metadata={"state": json.dumps(told)})
        os.replace(new, path)

    def resume(self, path: Path, mark: str) -> dict[str, Any]:
        """Read a checkpoint, if there is one; the reports of the stages that are done.

        Raises:
            ValueError: it was made for another graph, text or setting.
        """
        from safetensors import SafetensorError, safe_open

        if not path.is_file():
            return {}
        try:
            with safe_open(path, "pt") as file:
                self._resumed = json.loads((file.metadata() or {})["state"])
                self._tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise ValueError(f"{path} cannot be read ({error}); delete it to start anew") from error
        if self._resumed["mark"] != mark:
            raise ValueError(
                f"{path} is of another graph, text or setting; delete it, or name another folder"
            )
        with torch.no_grad():
            for key, weight in self.weights.items():
                weight.copy_(self._tensors[f"best.{key}"])
        return self._resumed["stages"]

    def _restore(self, optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        """Put weights and optimiser back to the checkpoint; the best weights so far."""
        with torch.no_grad():
            for key, weight in self.weights.items():
                weight.copy_(self._tensors[f"now.{key}"])
                parts = {
                    what: self._tensors[f"optimiser.{what}.{key}"].clone()
                    for what in ("step", "exp_avg", "exp_avg_sq")
                }
                optimiser.state[weight] = {
                    what: value if what == "step" else value.to(weight.device)
                    for what, value in parts.items()
                }
        return {key: self._tensors[f"best.{key}"] for key in self.weights}

    def save(self, folder: Path) -> None:
        """Write the adapter as plain LoRA in peft's format, in safetensors.

        What AdaLoRA learnt is B E A for each layer; E, of which it set parts to zero, goes into A.
        """
        from peft import LoraConfig
        from safetensors.torch import save_file

        wrapped = {n: m for n, m in self.model.named_modules() if hasattr(m, "lora_A")}
        tensors = {}
        for name, layer in wrapped.items():
            a, b = _factors(layer)
            tensors[f"{name}.lora_A.weight"] = a.detach().cpu().contiguous()
            tensors[f"{name}.lora_B.weight"] = b.detach().cpu().contiguous()
        rank = len(next(iter(tensors.values())))
        LoraConfig(
            r=rank,
            lora_alpha=rank,  # so that B A counts once
            target_modules=sorted(n.removeprefix("base_model.model.") for n in wrapped),
            base_model_name_or_path=self.config.model,
            inference_mode=True,
        ).save_pretrained(str(folder))
        save_file(tensors, folder / ADAPTER_FILES[1])


class _PackedRun:
    """BERT on a CPU without padding; what the layers that do not change make is kept.

    Args:
        model: with the adapter.
        lower: the same model without it.
        first: number of the first layer that changes.
    """

    def __init__(self, model: Any, lower: PackedBert, first: int) -> None:
        self.lower, self.first = lower, first
        self.upper = PackedBert(model.base_model.model, in_training=True)
        self._kept: dict[bytes, torch.Tensor] = {}
        self._room = _TOKENS_KEPT

    def __call__(self, tokens: list[np.ndarray], pooling: str) -> torch.Tensor:
        """Vectors of texts, longest first."""
        runs = runs_of(tokens)
        x = self.upper.through(self._below(tokens), runs, self.first)
        rows, start = [], 0
        for count, length in runs:
            part = x[start : start + count * length].view(count, length, -1)
            place = {"cls": 0, "last": -1}
            rows.append(part.mean(dim=1) if pooling == "mean" else part[:, place[pooling]])
            start += count * length
        return torch.cat(rows)

    def _below(self, tokens: list[np.ndarray]) -> torch.Tensor:
        """What the first layer that changes gets, ``[num_tokens, dim]``."""
        new = [one for one in tokens if _key(one) not in self._kept]
        fresh: dict[bytes, torch.Tensor] = {}
        if new:
            runs = runs_of(new)
            with torch.no_grad():
                rows = self.lower.through(self.lower.embedded(new, runs), runs, 0, self.first)
            parts = rows.split([len(one) for one in new])
            fresh = {_key(one): part for one, part in zip(new, parts, strict=True)}
        every = [fresh[key] if key in fresh else self._kept[key] for key in map(_key, tokens)]
        for key, part in fresh.items():
            if self._room >= len(part):
                self._kept[key] = part.clone()
                self._room -= len(part)
        return torch.cat(every)


def _key(tokens: np.ndarray) -> bytes:
    return tokens.tobytes()


def _factors(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B of which the change of a layer's weights is B A."""
    name, scale = "default", layer.scaling["default"]
    if hasattr(layer, "lora_E"):
        scale = scale / (layer.ranknum[name] + 1e-5)
        return layer.lora_A[name] * layer.lora_E[name] * scale, layer.lora_B[name]
    return layer.lora_A[name].weight * scale, layer.lora_B[name].weight


def _peft_config(config: AdaptationConfig, targets: list[str]) -> Any:
    from peft import AdaLoraConfig, LoraConfig

    shared = {
        "target_modules": targets,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
    }
    if config.method == "lora":
        return LoraConfig(r=config.rank, **shared)
    total = max(config.triples.steps + config.tastes.steps, 1)
    first, last = total // 10, total // 4
    return AdaLoraConfig(
        target_r=config.rank,
        init_r=round(1.5 * config.rank),
        tinit=first,
        tfinal=last,
        deltaT=5,
        total_step=total,
        **shared,
    )


def _upper_linears(model: Any, layers: int) -> tuple[int, list[str]]:
    """Number of the first of the upper so many blocks, and names of the linear layers in them."""
    numbered = {}
    for name, module in model.named_modules():
        places = [int(part) for part in name.split(".") if part.isdigit()]
        if isinstance(module, torch.nn.Linear) and places:
            numbered[name] = places[0]
    if not numbered:
        raise EncoderError(f"{type(model).__name__} has no numbered layers that could be adapted")
    first = max(max(numbered.values()) + 1 - layers, 0) if layers else 0
    return first, [name for name, place in numbered.items() if place >= first]


def _rate(step: int, stage: Stage) -> float:
    """Part of the peak rate: up in a line, then down in a line."""
    rising = stage.warm_up * stage.steps
    if step < rising:
        return (step + 1) / (rising + 1)
    return max((stage.steps - step) / max(stage.steps - rising, 1), 1e-3)


def _has_stopped(marks: list[list[float]], stage: Stage) -> bool:
    best = max(range(len(marks)), key=lambda i: (marks[i][1], -i))
    return len(marks) - 1 - best >= stage.patience


def _ends(losses: list[float]) -> tuple[list[float], list[float]]:
    part = max(len(losses) // 5, 1)
    return losses[:part], losses[-part:]
