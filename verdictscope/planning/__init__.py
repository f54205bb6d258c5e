"""What a study will cost before it runs: memory, hours, disk, generations, tokens and passes by stage."""

from verdictscope.planning.jobs import Job, Work
from verdictscope.planning.outlook import Outlook
from verdictscope.planning.plan import Plan, Row, plan_study
from verdictscope.planning.rates import ASSUMED, Rates, measure
from verdictscope.planning.shape import Shape, read_shape
from verdictscope.planning.show import print_plan
from verdictscope.planning.work import WORK, Counting

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
