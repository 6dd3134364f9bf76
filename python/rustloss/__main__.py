"""``python -m rustloss`` says what runs here: version, instruction set, threads."""

from rustloss import show_config

for name, value in show_config().items():
    print(f"{name}: {value}")
