"""The run page: one self-contained ``report.html`` that shows what happened in a run folder."""

from gramian.lab.page.render import write_report

__all__ = ["write_report"]
