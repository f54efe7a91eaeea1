"""Defines bounds that no client needs to pass; those that depend on the deployment are configured.

Each is far above what clients send, and low enough that one request delays others by milliseconds.
"""

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers together."""
MAX_HEADER_LINES = 100
MAX_URL_BYTES = 16 * 1024
MAX_PIPELINED = 16
"""Requests on one connection that wait for an earlier one's answer."""

SMALL_BODY_BYTES = 64 * 1024
"""Larger bodies are counted, read by turns and parsed in a thread."""
MAX_BODY_VALUES = 2**18
"""Values in a JSON body: members of lists and objects, at all depths."""
MAX_BODY_CONTAINERS = 2**15
"""Lists and objects in a JSON body."""
MAX_BODY_KEYS = 2**14
"""Keys of all objects in a JSON body."""

MAX_SEQUENCES = 128
"""``n`` times the prompts of one request."""
MAX_MESSAGES = 2048
MAX_PARTS = 1024
"""Of one message's content."""
MAX_PROMPT_IDS = 2**18
"""Tokens of prompts that are given as ids."""
MAX_REQUEST_TOKENS = 2**18
"""Prompt tokens over all sequences of a request, unless it is one sequence."""
MAX_REPORTED = 2**18
"""Log-probabilities over all sequences of a request, unless it is one sequence."""

MAX_NAME_CHARS = 512
MAX_STOP_CHARS = 4096
MAX_LIST_ITEMS = 1024
"""Of lists that have no bound of their own."""
MAX_TEXT_CHARS = 16 * 1024
"""Of strings other than the prompt."""

MAX_FAULTS = 8
"""Named in one error answer."""
MAX_ERROR_BYTES = 6 * 1024
"""Of an error's message as JSON; the whole answer stays below 8 KiB."""
MAX_PARAM_CHARS = 200
