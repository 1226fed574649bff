//! What programs that this process starts do not inherit.

use std::io;

use nix::libc;

/// The first descriptor that is not standard input, output or error.
const FIRST: libc::c_uint = 3;

/// Keeps every descriptor that is open now, but the standard ones, from programs that are started from now on. DPDK
/// opens devices and sockets without `O_CLOEXEC`: a program that outlives us would keep a card.
///
/// # Errors
///
/// What the kernel says; one before Linux 5.11 cannot do it (close_range(2)).
pub fn keep_from_programs() -> io::Result<()> {
    // SAFETY: changes a flag of descriptors, and no memory; all of them stay open.
    let answer =
        unsafe { libc::close_range(FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What a program finds open, by where it leads.
    fn seen(target: &str) -> usize {
        let listed = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
        String::from_utf8(listed.stdout).unwrap().lines().filter(|it| it.ends_with(target)).count()
    }

    #[test]
    fn a_program_finds_nothing_of_what_was_opened_without_thinking_of_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = std::ffi::CString::new(file.path().to_str().unwrap()).unwrap();
        // SAFETY: a path that ends with 0, and a descriptor that stays open until the test ends.
        let opened = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) };
        assert!(opened >= 3);
        assert_eq!(seen(path.to_str().unwrap()), 1);
        keep_from_programs().unwrap();
        assert_eq!(seen(path.to_str().unwrap()), 0);
    }
}
