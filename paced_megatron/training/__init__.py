"""The weighted distillation step on Megatron-Core, and the loop around it.

`examples.py` puts text and weight together, `batches.py` orders them into batches and gives every token its
coefficient, `packing.py` says which texts share a row. `step.py` is the step itself (teacher, then student,
then one reduction), of what `objective.py` says: `student.py` and `teacher.py` are this rank's parts of the
two models, `teachers.py` the table of the kinds of teacher (`self_teacher.py` and `ema.py`: the student
itself; `teacher_service.py`: one on ranks of its own), `forward.py` what the models' passes share, `head.py`
what the student's head needs because its own forward is never called. `token_weights.py` has the methods that
weigh single tokens, `token_pass.py` the numbers that they ask for. `source.py` says where a step's texts come
from. `optimizer.py` sets up Megatron's AdamW and schedule, `checkpoints/` saves and resumes, `loop.py` runs a
stage. How a weight comes about belongs to `pacing/`, what a divergence is to `divergence/`. Open `step.py`
first.
"""
