"""What `--help` says of `paced run` and of each phase."""

from __future__ import annotations

from paced_megatron.commands.usage import Usage

RECIPE = "examples/quickstart/quickstart.yaml"

PHASE_USAGES: dict[str, Usage] = {
    "run": Usage(
        description="Everything, in order: roll out, weigh, respond, train, export, evaluate, stage after "
        "stage. Started again it goes on from where it was; a run that is complete is left as it is.",
        reads="CONFIG, its problems and models; what the run's folder (run_dir) has already",
        writes="the run's folder: config.yaml, problems.jsonl, stage-N/ (attempts.jsonl, pass_rates.jsonl, "
        "responses.jsonl, checkpoints/, metrics.jsonl, hf/), evaluation.json",
        examples=(
            (f"paced run {RECIPE}", "the quickstart's PACED arm by itself, in two processes"),
            (
                f"paced run {RECIPE} training.lr=1e-4 run_dir=runs/lr1e-4",
                "the same with two keys changed; docs/configuration.md lists every key",
            ),
            (f"torchrun --nproc-per-node=2 -m paced_megatron.cli run {RECIPE}", "started by torchrun"),
        ),
    ),
    "rollout": Usage(
        description="The student attempts every problem K times (rollout.attempts), and a verifier tells "
        "which attempts are correct.",
        reads="CONFIG, its problems, the student: of stage 1 student.path, of a later one the stage before's "
        "export; with rollout.engine=sglang its servers",
        writes="stage-N/attempts.jsonl, an attempt a line as they arrive",
        examples=(
            (
                f"paced rollout {RECIPE}",
                "every stage; what is complete is left as it is",
            ),
            (
                f"paced rollout {RECIPE} rollout.attempts=16 run_dir=runs/16-attempts --stage 1",
                "only the first, with 16 attempts: another run, and so another folder",
            ),
        ),
    ),
    "weigh": Usage(
        description="Pass rates become problem weights; problems off the frontier are left out (pacing.*).",
        reads="CONFIG, stage-N/attempts.jsonl",
        writes="stage-N/pass_rates.jsonl",
        examples=((f"paced weigh {RECIPE} --stage 1", "says how many are mastered, hopeless and kept"),),
    ),
    "respond": Usage(
        description="The teacher answers the problems: the text that a stage with `text: responses` is "
        "trained on. A stage on the student's own rollouts needs none.",
        reads="CONFIG, stage-N/pass_rates.jsonl, the teacher or its servers",
        writes="stage-N/responses.jsonl",
        examples=(
            (
                f"paced respond {RECIPE} --stage 1",
                "all problems, since its rollout.respond_to is `all`; by default those that are kept",
            ),
        ),
    ),
    "evaluate-before": Usage(
        description="Accuracy on the held-out problems of the student that a stage starts from, as step 0; "
        "`paced run` does it before the first stage is trained.",
        reads="CONFIG, its problems, the student as for `paced rollout`",
        writes="evaluation.json; the attempts that it is made of",
        examples=((f"paced evaluate-before {RECIPE} --stage 1", "the student as it was given"),),
    ),
    "train": Usage(
        description="Weighted distillation on Megatron-Core, from the newest checkpoint until the budget "
        "(train_iters, train_tokens or train_seconds) is spent.",
        reads="CONFIG, stage-N/pass_rates.jsonl and responses.jsonl, the student and the teacher",
        writes="stage-N/checkpoints/, metrics.jsonl; of an on-policy stage rollouts/",
        examples=(
            (f"paced train {RECIPE} --stage 1", "goes on where it was stopped"),
            (f"paced train {RECIPE} training.save_interval=5 --stage 1", "with more checkpoints on the way"),
        ),
    ),
    "export": Usage(
        description="The trained student as a Hugging Face folder, which transformers and SGLang load.",
        reads="CONFIG, stage-N/checkpoints/",
        writes="stage-N/hf/ (config.json, *.safetensors, the tokenizer)",
        examples=((f"paced export {RECIPE} --stage 1", "from the last step's checkpoint"),),
    ),
}
