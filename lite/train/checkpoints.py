"""What both trainers share: progress, checkpoints that a kill cannot spoil, the finished adapter."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lite.progress import Meter

WHOLE = "whole"  # written into a checkpoint after everything else


def last_whole(folder: Path) -> Path | None:
    """The newest `checkpoint-<step>` folder that was written to its end, or None."""
    whole = [path for path in folder.glob("checkpoint-*") if (path / WHOLE).is_file()]
    return max(whole, key=step_of, default=None)


def step_of(checkpoint: Path | None) -> int:
    """The step a checkpoint was made at; 0 for none."""
    return int(checkpoint.name.removeprefix("checkpoint-")) if checkpoint else 0


def callback(meter: Meter, start: int):
    """A TrainerCallback: marks checkpoints whole and moves the meter. `start` is the step resumed from."""
    from transformers import TrainerCallback

    meter.advance(start)

    class Progress(TrainerCallback):
        note = ""

        def on_save(self, args, state, control, **_):
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()

        def on_log(self, args, state, control, logs=None, **_):
            shown = {key: logs[key] for key in ("loss", "reward") if logs and key in logs}
            self.note = " ".join(f"{key} {value:.3f}" for key, value in shown.items()) or self.note

        def on_step_end(self, args, state, control, **_):
            meter.advance(1, self.note)

    return Progress()


def silence(trainer) -> None:
    """Take off the callbacks that print every log line; ours shows progress."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    for noisy in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noisy)


def save_adapter(model, tokenizer, folder: Path) -> None:
    """Save a PEFT adapter and its tokenizer to a temporary folder, then rename it into place."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    for old in (temporary, folder):
        if old.exists():
            shutil.rmtree(old)
    # The token rows are in the adapter; "auto" would ask the hub whether to save all of them.
    model.save_pretrained(str(temporary), save_embedding_layers=False)
    tokenizer.save_pretrained(str(temporary))
    (temporary / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    os.replace(temporary, folder)


def clean(folder: Path) -> None:
    """Remove the checkpoints of a finished stage."""
    shutil.rmtree(folder, ignore_errors=True)
