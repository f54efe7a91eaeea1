"""The engine measured beside transformers and PEFT, and beside what the machine can do."""
