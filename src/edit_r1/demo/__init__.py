"""The whole loop on EditWorld: `run_demo` runs it, `draw_report` shows it."""

from edit_r1.demo.loop import run_demo
from edit_r1.demo.showing import draw_report

__all__ = ["draw_report", "run_demo"]
