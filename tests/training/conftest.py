"""The tiny base that trainings run on."""

from hypothesis import settings

from tests.support.chat_base import chat_base

__all__ = ["chat_base"]

settings.register_profile("training", deadline=None)  # a busy machine is not a failure
settings.load_profile("training")
