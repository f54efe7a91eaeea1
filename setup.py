"""Adds the source of vLLM's plugin to the wheel; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SOURCE = Path(__file__).parent / "plugins" / "vllm"
LEFT_OUT = (".*", "__pycache__", "build", "dist", "tests", "*.egg-info")


class BuildWithPlugin(build_py):
    """Builds the packages, and puts the plugin where `braid engine install vllm` looks for it."""

    def run(self) -> None:
        """Build."""
        super().run()
        if SOURCE.is_dir() and not self.editable_mode:
            target = Path(self.build_lib, "deployments", "engines", "plugin")
            ignore = shutil.ignore_patterns(*LEFT_OUT)
            shutil.copytree(SOURCE, target, ignore=ignore, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithPlugin})
