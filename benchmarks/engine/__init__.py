"""The engine measured against transformers, PEFT and the machine's bound."""
