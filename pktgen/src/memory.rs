//! Memory for what a run remembers of its flows.

use std::hint::black_box;

/// So many of `value`, each written. Zeroes that are only promised by the kernel would be made at their first use, in the
/// middle of a run, a page at a time.
pub fn filled<T: Copy>(value: T, count: usize) -> Vec<T> {
    let mut memory = Vec::with_capacity(count);
    // Who may see it keeps the compiler from asking for memory that is zero already.
    black_box(&mut memory).resize(count, value);
    memory
}
