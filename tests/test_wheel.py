"""The scan of wheels tells wide instructions from others, and finds who calls for an fma."""

import pytest

from instructions import CALLERS, DISPATCHED, callers, wide_functions

LISTING = """
0000000000001000 <rustloss::simd::x86::avx2::h0123>:
    1000:\tvmovups (%rdi),%ymm0
    1004:\tret

0000000000002000 <rustloss::sum::total>:
    2000:\tmovups (%rdi),%xmm0
    2004:\t{}
"""


@pytest.mark.parametrize(
    "wide", ["vaddpd %zmm1,%zmm2,%zmm3", "kmovw %eax,%k1", "shlx %eax,%ebx,%ecx"]
)
def test_wide_instruction_is_found_with_its_function(wide):
    inside, outside = wide_functions(LISTING.format(wide).splitlines())
    assert inside == ("rustloss::simd::x86::avx2::h0123", "vmovups")
    assert outside == ("rustloss::sum::total", wide.split()[0])
    assert [bool(DISPATCHED.search(symbol)) for symbol, _ in (inside, outside)] == [True, False]


@pytest.mark.parametrize("plain", ["andnpd %xmm1,%xmm2", "pextrw $0x2,%xmm8,%ebx", "verr %ax"])
def test_plain_instruction_is_none(plain):
    assert len(list(wide_functions(LISTING.format(plain).splitlines()))) == 1


@pytest.mark.parametrize(
    "call", ["mov 0x9(%rip),%r14        # 4fc00 <_DYNAMIC+0x300>", "call 51d0 <fma>"]
)
def test_function_that_calls_the_c_library_is_found(call):
    lines = LISTING.format(call).splitlines()
    assert callers(lines, ["# 4fc00 ", "<fma>"]) == {"rustloss::sum::total"}
    assert callers(lines, ["# 4fc0 ", "<fmaf>"]) == set()


def test_baseline_may_call_the_c_library():
    assert CALLERS.search("rustloss::simd::baseline::h0123")
    assert not CALLERS.search("rustloss::simd::x86::avx2::h0123")
    assert not CALLERS.search("rustloss::losses::rowwise::kl_div::h0123")
