"""Checks that what the node says reaches the supervisor, in order and whole."""

import os

from deployments.local.phases import FAILED, RUNNING, Phase, PhaseReader, PhaseWriter


def test_phases_arrive_in_order_and_only_whole() -> None:
    reading, writing = os.pipe()
    reader, writer = PhaseReader(reading), PhaseWriter(writing)
    assert reader.read_phases() == []
    said = [Phase("starting ray"), Phase(RUNNING), Phase(FAILED, "two\nlines, and ümläuts")]
    for phase in said:
        writer.write_phase(phase)
    assert reader.read_phases() == said
    os.write(writing, b'{"name": "run')
    assert reader.read_phases() == []
    os.write(writing, b'ning", "reason": null}\n')
    assert reader.read_phases() == [Phase(RUNNING)]
    os.close(writing)
    assert reader.read_phases() == []
    reader.close()


def test_a_reader_that_has_gone_does_not_end_the_node() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    PhaseWriter(writing).write_phase(Phase(RUNNING))
    os.close(writing)
