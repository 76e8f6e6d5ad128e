"""Where a run keeps what: the names of its files, and nothing else.

A run's folder, all of it readable without this project's code:

    config.yaml       the whole configuration, defaults included
    problems.jsonl    the training problems: id, problem, answer, solution, level
    evaluation.json   {"rows": [...]}: a row per measurement (evaluation/accuracy.py, `EvaluationRow`); stage,
                      step, problem_set ("test", "forgetting") and decoding ("sampled", "greedy") say which
    forgetting.json   {"rows": [...], "forgotten": [...]}: lm-eval's numbers of the student before and after
                      training, and the differences (evaluation/forgotten.py)
    strata.jsonl      a line per test problem: problem_id, correct, attempts, pass_rate, stratum ("never",
                      "frontier", "always"), by attempts of the initial student that serve nothing else
    timings.jsonl     a line per piece of work that has ended: phase, stage, file, seconds, tokens, attempts
                      (timings.py); training is in metrics.jsonl, where each step has its own seconds
    shared.json       only in an arm: {file: {"sha256": ..., "from": ...}} of what its seed made once; its
                      timings.jsonl then begins with what that took
    stage-N/
      attempts.jsonl    K attempts at every training problem by the student that the stage starts from
      pass_rates.jsonl  a line per training problem: problem_id, correct, attempts, pass_rate, on_frontier,
                        kept, weight (0 where not kept; mean 1 as pacing.normalize says)
      responses.jsonl   the teacher's text (not where the stage's text is rollouts)
      rollouts/step-0000003.jsonl
                        an on-policy stage's attempts, made before step 3 with the weights of that moment
                        (weight_version "stage-N step-2"); steps up to the next file train on them. A problem
                        drawn twice has the attempts 0 to K-1 and K to 2K-1
      policy/           the student that makes them, as a Hugging Face folder, while the stage is trained
      metrics.jsonl     a line per optimizer step (training/metrics.py): loss, tokens, step_time (seconds) ...
      training.json     once training has ended: last_step, tokens (response tokens trained on), seconds (of
                        its steps), why ("budget spent", or "no text")
      teacher/          the teacher's hidden states, a file a text (training/teacher_cache.py), where
                        teacher.cache asks for them
      checkpoints/      training state
      hf/               the trained student as a Hugging Face folder
      evaluation/step-0000020/test-sampled.jsonl
                        the attempts behind a row of evaluation.json: PROBLEM_SET-DECODING
      evaluation/step-0000020/forgetting-TASK.jsonl
                        lm-eval's TASK: a line with its numbers, then one with the score of each document
      evaluation/strata.jsonl
                        the attempts behind strata.jsonl (stage 1 only)
      attempts_after.jsonl, pass_rates_after.jsonl
                        the same K attempts at every training problem by the trained student, and their pass
                        rates (problem_id, correct, attempts, pass_rate, on_frontier), where
                        evaluation.pass_rates_after asks for them; in the last stage only

An experiment's folder holds runs:

    experiment.yaml   run_dir, seeds, arms (name -> {dotted key: value}), base (every key, overrides
                      included); `paced compare` takes it as it takes the file that it was made from
    arms/ARM/seed-N/  ordinary run folders; what a seed's arms have in common is hard-linked, and named by
                      hash in shared.json
    shared/seed-N/    stage-1/{attempts.jsonl, responses.jsonl, evaluation/strata.jsonl,
                      evaluation/step-0000000/*.jsonl} and timings.jsonl, as in a run's folder: made once;
                      shared.json, written last, has their hashes
    comparison.json, comparison.csv
                      the table of arms, and the paired differences between them (experiments/results.py)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StageFolder:
    """The files of one stage; `number` counts from 1."""

    path: Path
    number: int

    @property
    def attempts(self) -> Path:
        return self.path / "attempts.jsonl"

    @property
    def pass_rates(self) -> Path:
        return self.path / "pass_rates.jsonl"

    @property
    def responses(self) -> Path:
        return self.path / "responses.jsonl"

    @property
    def policy(self) -> Path:
        """The student as it is now, for its rollouts."""
        return self.path / "policy"

    def rollouts(self, step: int) -> Path:
        """The attempts that were made before this step, for it and those that share them."""
        return self.path / "rollouts" / f"step-{step:07d}.jsonl"

    @property
    def teacher(self) -> Path:
        """The teacher's hidden states."""
        return self.path / "teacher"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def training(self) -> Path:
        """With which step training has ended, and why (training/budget.py)."""
        return self.path / "training.json"

    @property
    def student(self) -> Path:
        """The trained student, as a Hugging Face folder."""
        return self.path / "hf"

    @property
    def attempts_after(self) -> Path:
        """Attempts at the training problems by the trained student."""
        return self.path / "attempts_after.jsonl"

    @property
    def pass_rates_after(self) -> Path:
        return self.path / "pass_rates_after.jsonl"

    @property
    def strata_attempts(self) -> Path:
        """The initial student's attempts that sort the test problems into strata."""
        return self.path / "evaluation" / "strata.jsonl"

    def snapshot(self, step: int) -> Path:
        """The student after `step` optimizer steps, for as long as it is being evaluated."""
        return self.path / f"snapshot-{step:07d}"

    def evaluation_attempts(self, step: int, problem_set: str, decoding: str) -> Path:
        """The attempts behind one row of evaluation.json."""
        return self.path / "evaluation" / f"step-{step:07d}" / f"{problem_set}-{decoding}.jsonl"

    def forgetting(self, step: int, task: str) -> Path:
        """A measurement by a task of lm-eval."""
        return self.path / "evaluation" / f"step-{step:07d}" / f"forgetting-{task}.jsonl"


@dataclass(frozen=True)
class RunFolder:
    """A run's folder; readable without this project's code."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def problems(self) -> Path:
        return self.path / "problems.jsonl"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def forgetting(self) -> Path:
        """What lm-eval's tasks say of the student before and after."""
        return self.path / "forgetting.json"

    @property
    def environment(self) -> Path:
        """With what the run was begun: commit, versions."""
        return self.path / "environment.json"

    @property
    def strata(self) -> Path:
        return self.path / "strata.jsonl"

    @property
    def timings(self) -> Path:
        return self.path / "timings.jsonl"

    @property
    def shared(self) -> Path:
        """Which of its files an arm has in common with the other arms of its seed, by hash."""
        return self.path / "shared.json"

    @property
    def logs(self) -> Path:
        """What the ranks other than 0 print."""
        return self.path / "logs"

    def stage(self, number: int) -> StageFolder:
        return StageFolder(self.path / f"stage-{number}", number)


@dataclass(frozen=True)
class ExperimentFolder:
    """An experiment's folder: a run's folder for each arm and seed, and what the arms of a seed share."""

    path: Path

    @property
    def experiment(self) -> Path:
        return self.path / "experiment.yaml"

    @property
    def comparison(self) -> Path:
        return self.path / "comparison.json"

    @property
    def comparison_csv(self) -> Path:
        return self.path / "comparison.csv"

    @property
    def logs(self) -> Path:
        """What the ranks other than 0 print."""
        return self.path / "logs"

    def arm(self, name: str, seed: int) -> RunFolder:
        return RunFolder(self.path / "arms" / name / f"seed-{seed}")

    def shared(self, seed: int) -> RunFolder:
        return RunFolder(self.path / "shared" / f"seed-{seed}")
