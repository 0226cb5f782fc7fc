"""The fuzzer of attempts: what tasks do at random, what each must end in, and what nobody may find afterwards."""
