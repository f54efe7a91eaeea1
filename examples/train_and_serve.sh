#!/usr/bin/env bash
# Trains an adapter from JSON lines, adds it to the running cluster, and asks it.
#
#   make up && bash examples/train_and_serve.sh
#
# BRAID_URL, and an administrator's key in BRAID_ADMIN_KEY, name another cluster than that of
# `braid up`. STEPS=120 trains well; fewer steps show the way only.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
server=()
[ -z "${BRAID_URL:-}" ] || server+=(--url "$BRAID_URL")
[ -z "${BRAID_ADMIN_KEY:-}" ] || server+=(--key "$BRAID_ADMIN_KEY")

# One JSON object a line; data of your own has the same form.
python -m demo data --out "$folder/data"
braid train adapter --data "$folder/data/dates.train.jsonl" --out "$folder/days" --steps "${STEPS:-120}"

braid adapters add days "$folder/days" --grant '*' --replace "${server[@]}"
braid chat --model days "${server[@]}" "The contract ends on the 3rd of March, 2027."
braid adapters rm days "${server[@]}"
