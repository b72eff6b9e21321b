//! Fetches memory into the processor's cache before it is needed. The only `unsafe` of the crate: the
//! instruction has no safe form in the standard library yet.

/// Octets of a cache line.
#[cfg(target_arch = "x86_64")]
const CACHE_LINE: usize = 64;

/// Starts fetching the cache lines of `value`, and does not wait for them. Changes nothing but speed; does
/// nothing on processors for which the standard library has no such instruction.
#[inline]
pub(crate) fn prefetch<T: ?Sized>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = std::ptr::from_ref(value).cast::<i8>();
        let lead = first.addr() % CACHE_LINE;
        for line in (0..lead + size_of_val(value)).step_by(CACHE_LINE) {
            // SAFETY: the instruction takes any address: it reads nothing for the program, writes nothing and
            // never faults.
            #[expect(unsafe_code, reason = "one instruction without effect on the program")]
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(line));
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
