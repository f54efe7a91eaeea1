"""The demo's skills, each in a file of its own."""

from demo.generator.skills import (
    cron,
    dates,
    equations,
    general,
    json_records,
    shell,
    sql,
    tickets,
)
from demo.generator.skills.templates import Skill

SKILLS: dict[str, Skill] = {
    module.SKILL.name: module.SKILL
    for module in (cron, dates, equations, json_records, shell, sql, tickets)
}
"""The skills an adapter is trained for, by name."""

GENERAL: Skill = general.SKILL
"""Prompts for no skill at all; their completion is empty."""
