"""The token view: rollouts as coloured tokens in one static page. A folder, because a page needs a style and a script.

data      the tidy table as rollouts, runs of one segment and columns of scores
visible   untrusted text that acts on nothing around it
palette   the diverging colours, light and dark
encode    scores and data inside a page
view      the page, alone or framed
"""

from verdictscope.figures.token_view.view import TokenView, csp, token_view

__all__ = ["TokenView", "csp", "token_view"]
