"""Base models from the Hugging Face hub: safetensors only, and a quick refusal without a hub."""

import re
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from cluster.errors import ModelSourceError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_WANTED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")
_REACHABLE_TIMEOUT_S = 5.0

Progress = Callable[[str, int, int | None], None]


def is_hub_id(name: str) -> bool:
    """Return whether `name` has the form owner/name."""
    return _HUB_ID.fullmatch(name) is not None and ".." not in name


def download(model: str, out: Path, report: Progress) -> None:
    """Download config, tokenizer and safetensors weights of `model` into `out`.

    Files in sub-folders and pickled weights are never fetched.

    Raises:
        ModelSourceError: the hub cannot be reached, refuses, or has no safetensors for `model`.
    """
    import httpx2
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        report("asking the hub", 0, None)
        info = HfApi().model_info(model, files_metadata=True, timeout=_REACHABLE_TIMEOUT_S)
        files = {
            item.rfilename: item.size or 0
            for item in info.siblings or ()
            if "/" not in item.rfilename and any(fnmatch(item.rfilename, p) for p in _WANTED)
        }
        if not any(name.endswith(".safetensors") for name in files):
            raise ModelSourceError("it has no safetensors weights there")
        done, total = 0, sum(files.values())
        for name, size in files.items():
            report(f"downloading {name}", done, total)
            hf_hub_download(model, name, revision=info.sha, local_dir=out)
            done += size
        report("downloaded", done, total)
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no status"
        raise ModelSourceError(f"refused ({status})") from error
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
        raise ModelSourceError(f"not reachable ({type(error).__name__})") from error
    finally:
        shutil.rmtree(out / ".cache", ignore_errors=True)
