"""What a study will cost before it runs: memory, hours, disk, generations, tokens and passes by stage."""

from verdictscope.study.planning.jobs import Job, Work
from verdictscope.study.planning.outlook import Outlook
from verdictscope.study.planning.plan import Plan, Row, plan_study
from verdictscope.study.planning.rates import ASSUMED, Rates, measure
from verdictscope.study.planning.shape import Shape, read_shape
from verdictscope.study.planning.show import print_plan
from verdictscope.study.planning.work import WORK, Counting

__all__ = [
    "ASSUMED",
    "WORK",
    "Counting",
    "Job",
    "Outlook",
    "Plan",
    "Rates",
    "Row",
    "Shape",
    "Work",
    "measure",
    "plan_study",
    "print_plan",
    "read_shape",
]
