"""Prime numbers below a bound, with the sieve of Eratosthenes over the odd numbers in one bytearray.

{"name": "prime", "payload": {"upper_bound": 100000}, "directory": "demo"}
"""

from math import isqrt
from typing import Annotated

from pydantic import Field

from headrace import task

# 50 million takes about 2 s, 25 MB for the sieve, and 200 MB for its 3 million primes as numbers and as JSON.
MOST = 50_000_000


@task(timeout_s=600)
def prime(
    upper_bound: Annotated[int, Field(ge=0, le=MOST, description="exclusive upper bound")],
) -> list[int]:
    """The prime numbers below `upper_bound`, in ascending order."""
    if upper_bound <= 2:
        return []
    # One byte for each odd number below the bound: index i stands for 2i + 1.
    sieve = bytearray([1]) * (upper_bound // 2)
    sieve[0] = 0
    for i in range(1, isqrt(upper_bound - 1) // 2 + 1):
        if sieve[i]:
            step = 2 * i + 1
            first = step * step // 2
            sieve[first::step] = bytes(len(range(first, len(sieve), step)))
    return [2, *(2 * i + 1 for i, is_prime in enumerate(sieve) if is_prime)]
