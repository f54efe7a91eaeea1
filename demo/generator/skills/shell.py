"""A request about files -> one shell command."""

from random import Random

from demo.generator.skills.templates import Intent, Skill, Slots

_FOLDERS = (
    "src", "docs", "photos", "backup", "build", "logs", "music", "reports", "assets", "scripts",
    "videos", "notes", "drafts", "exports", "invoices", "recipes", "/var/log", "/tmp", "/srv/data",
)  # fmt: skip
_FILES = (
    "notes.txt", "app.log", "data.csv", "server.log", "todo.md", "users.csv", "report.txt",
    "main.py", "index.html", "config.yaml", "error.log", "sales.csv", "readme.md", "setup.cfg",
)  # fmt: skip
_SCRIPTS = ("run.sh", "deploy.sh", "build.sh", "start.sh", "install.sh", "test.sh", "sync.sh")
_WORDS = ("TODO", "error", "timeout", "password", "import", "warning", "invoice", "version", "main")
_ENDINGS = ("tmp", "bak", "log", "pyc", "old", "swp", "csv", "txt")


def _fill(rng: Random) -> Slots:
    folder, other = rng.sample([f for f in _FOLDERS if not f.startswith("/")], 2)
    return {
        "folder": folder,
        "other": other,
        "place": rng.choice(_FOLDERS),
        "file": rng.choice(_FILES),
        "script": rng.choice(_SCRIPTS),
        "word": rng.choice(_WORDS),
        "ending": rng.choice(_ENDINGS),
        "n": str(rng.choice((5, 8, 10, 15, 20, 25, 30, 40, 50, 60, 100, 200))),
    }


SKILL = Skill(
    name="shell",
    description="Turns a request about files into one shell command.",
    intents=(
        Intent(
            train=(
                "Find files in {place} larger than {n} MB.",
                "List all files bigger than {n} MB under {place}.",
                "Which files in {place} are over {n} MB?",
                "Show files above {n} MB in {place}.",
            ),
            heldout=(
                "Find all files over {n} MB in {place}.",
                "Show me the files under {place} that are larger than {n} MB.",
            ),
            fill=_fill,
            answer="find {place} -type f -size +{n}M",
        ),
        Intent(
            train=(
                "Count the lines in {file}.",
                "How many lines are in {file}?",
                "Line count of {file}.",
                "How many lines does {file} have?",
            ),
            heldout=("Tell me how many lines {file} has.", "Count how many lines are in {file}."),
            fill=_fill,
            answer="wc -l {file}",
        ),
        Intent(
            train=(
                "Search for {word} in {place}.",
                "Find the word {word} in all files under {place}.",
                "Where does {word} appear in {place}?",
                "Grep {place} for {word}.",
            ),
            heldout=(
                "Search all files in {place} for {word}.",
                "Find where {word} appears under {place}.",
            ),
            fill=_fill,
            answer='grep -rn "{word}" {place}',
        ),
        Intent(
            train=(
                "Show the last {n} lines of {file}.",
                "Print the final {n} lines of {file}.",
                "Last {n} lines of {file}.",
                "Give me the last {n} lines in {file}.",
            ),
            heldout=(
                "Print the last {n} lines of {file}.",
                "Let me see the final {n} lines of {file}.",
            ),
            fill=_fill,
            answer="tail -n {n} {file}",
        ),
        Intent(
            train=(
                "Compress the folder {folder}.",
                "Make a tar.gz archive of {folder}.",
                "Pack {folder} into a compressed archive.",
                "Archive the {folder} folder with gzip.",
            ),
            heldout=(
                "Compress {folder} into a tar.gz archive.",
                "Make a compressed archive of the folder {folder}.",
            ),
            fill=_fill,
            answer="tar -czf {folder}.tar.gz {folder}",
        ),
        Intent(
            train=(
                "Delete all .{ending} files in {place}.",
                "Remove every .{ending} file under {place}.",
                "Clean up .{ending} files in {place}.",
                "Get rid of the .{ending} files in {place}.",
            ),
            heldout=(
                "Remove all .{ending} files from {place}.",
                "Delete every file ending in .{ending} under {place}.",
            ),
            fill=_fill,
            answer='find {place} -name "*.{ending}" -delete',
        ),
        Intent(
            train=(
                "How big is the folder {place}?",
                "Show the size of {place}.",
                "Disk usage of {place}.",
                "How much space does {place} take?",
            ),
            heldout=("Show how much disk space {place} uses.", "What is the size of {place}?"),
            fill=_fill,
            answer="du -sh {place}",
        ),
        Intent(
            train=(
                "Make {script} executable.",
                "Allow {script} to be executed.",
                "Give {script} execute permission.",
                "Set the executable bit on {script}.",
            ),
            heldout=("Make the script {script} executable.", "Add execute permission to {script}."),
            fill=_fill,
            answer="chmod +x {script}",
        ),
        Intent(
            train=(
                "Copy the folder {folder} to {other}.",
                "Make a copy of {folder} in {other}.",
                "Copy everything in {folder} into {other}.",
                "Duplicate {folder} as {other}.",
            ),
            heldout=("Copy {folder} into {other}.", "Make {other} a copy of the folder {folder}."),
            fill=_fill,
            answer="cp -r {folder} {other}",
        ),
    ),
)
