"""What both trainers share: progress, checkpoints that a kill cannot spoil, the finished adapter."""

from __future__ import annotations

import shutil
from pathlib import Path

from lite.models import adapters
from lite.runtime.files import atomic_folder
from lite.runtime.progress import Meter, progress

WHOLE = "whole"  # written into a checkpoint after everything else


def last_whole(folder: Path) -> Path | None:
    """The newest `checkpoint-<step>` folder that was written to its end, or None."""
    whole = [path for path in folder.glob("checkpoint-*") if (path / WHOLE).is_file()]
    return max(whole, key=step_of, default=None)


def step_of(checkpoint: Path | None) -> int:
    """The step a checkpoint was made at; 0 for none."""
    return int(checkpoint.name.removeprefix("checkpoint-")) if checkpoint else 0


def _callback(meter: Meter):
    """A TrainerCallback that marks checkpoints whole and moves the meter."""
    from transformers import TrainerCallback

    def mark(args, state) -> Path:
        return Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE

    class Progress(TrainerCallback):
        note = ""

        def on_save(self, args, state, control, **_):
            if args.should_save:  # the main process
                mark(args, state).touch()

        def on_epoch_end(self, args, state, control, **_):
            if control.should_save:  # into the same folder once more, where an epoch is one step
                mark(args, state).unlink(missing_ok=True)

        def on_log(self, args, state, control, logs=None, **_):
            shown = {key: logs[key] for key in ("loss", "reward") if logs and key in logs}
            self.note = " ".join(f"{key} {value:.3f}" for key, value in shown.items()) or self.note

        def on_step_end(self, args, state, control, **_):
            meter.advance(1, self.note)
            if state.global_step == 1:  # a disk that is full or not ours shows now, not in an hour
                control.should_save = True

    return Progress()


def fit(trainer, name: str, total: int, resume: Path | None) -> None:
    """Train up to `total` steps, from a checkpoint if there is one, under a progress bar."""
    from transformers import TrainerState

    silence(trainer)
    if resume and step_of(resume) >= total:  # cut after the last step: Trainer would take one more
        trainer.state = TrainerState.load_from_json(str(resume / "trainer_state.json"))
        adapters.load_adapter_weights(trainer.model, resume)
        return
    with progress(name, total, "steps") as meter:
        meter.advance(step_of(resume))
        trainer.add_callback(_callback(meter))
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)


def silence(trainer) -> None:
    """Take off the callbacks that print every log line; ours shows progress."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    for noisy in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noisy)


def save_adapter(model, tokenizer, folder: Path) -> None:
    """Save a PEFT adapter and its tokenizer to a temporary folder, then rename it into place."""
    with atomic_folder(folder) as temporary:
        # The token rows are in the adapter; "auto" would ask the hub whether to save all of them.
        model.save_pretrained(str(temporary), save_embedding_layers=False)
        tokenizer.save_pretrained(str(temporary))
        (temporary / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def clean(folder: Path) -> None:
    """Remove the checkpoints of a finished stage; renamed first, lest a kill leave a mark on half of one."""
    gone = folder.with_name(f".{folder.name}.tmp")
    if folder.exists():
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
