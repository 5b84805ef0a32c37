"""The options of commands have the names of the library's arguments."""

from __future__ import annotations

from dataclasses import fields

from lerpscape.cli.options import DeviceOptions, ProfileOptions
from lerpscape.engine.measurement import MeasurementOptions
from lerpscape.studies.many_profiles import StudyOptions


def test_commands_and_functions_have_the_same_options() -> None:
    device, line = ({field.name for field in fields(options)} for options in (DeviceOptions, ProfileOptions))
    assert device == set(MeasurementOptions.__annotations__)
    assert line - {"device"} | device == set(StudyOptions.__annotations__)
