"""A recipe as people write it, for the fixture `load`."""

YAML = """\
run_dir: runs/a
problems:
  train: data/train.jsonl
  test: /elsewhere/test.jsonl
student: {path: student}
teacher:
  path: ../teacher
training:
  lr: 1e-6
  global_batch_size: 8
stages:
  - train_iters: 10
"""
