//! Several tests over one rig: the machines are built once for a file of tests, and taken down
//! after the last one, whatever came of it. Each case publishes the services that it speaks of;
//! after each, the books must balance.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::rig::Rig;

/// A name and a test.
pub type Case = (&'static str, fn(&mut Rig));

/// Makes a file of tests out of functions that take a `&mut Rig`: gives it a `main` that behaves as
/// that of any Rust test does. (Its target says `harness = false`.) After `on ...;` the rig is what
/// that function makes.
#[macro_export]
macro_rules! cases {
    (on $boot:path; $($case:ident,)+) => {
        fn main() -> std::process::ExitCode {
            $crate::cases::run($boot, vec![$((stringify!($case), $case),)+])
        }
    };
    ($($case:ident,)+) => {
        $crate::cases! { on $crate::rig::Rig::boot; $($case,)+ }
    };
}

/// Runs the cases that the command line asks for, one after another, on what `boot` makes.
pub fn run(boot: fn() -> Rig, cases: Vec<Case>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1); // one rig, and two cores at most
    // Booted by the first case that is run, so that listing them costs nothing.
    let rig = Arc::new(Mutex::new(None));
    let trials = cases.into_iter().map(|(name, case)| {
        let rig = Arc::clone(&rig);
        Trial::test(name, move || with(&rig, boot, case))
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    let left = rig.lock().unwrap_or_else(PoisonError::into_inner).take();
    let stopped = catch_unwind(AssertUnwindSafe(|| left.map(stop)));
    match stopped {
        Ok(_) => conclusion.exit_code(),
        Err(_) => ExitCode::FAILURE, // the panic has been printed
    }
}

/// Runs one case. After a failure the next case gets a new rig, so that it fails for its own
/// reasons only.
fn with(rig: &Mutex<Option<Rig>>, boot: fn() -> Rig, case: fn(&mut Rig)) -> Result<(), Failed> {
    let mut guard = rig.lock().unwrap_or_else(PoisonError::into_inner);
    let mut rig = guard.take().unwrap_or_else(boot);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        case(&mut rig);
        rig.settle();
    }));
    match outcome {
        Ok(()) => *guard = Some(rig),
        Err(panic) => {
            eprintln!("--- what sluice logged ---\n{}", rig.appliance.log());
            drop(rig);
            resume_unwind(panic); // libtest-mimic reports it
        }
    }
    Ok(())
}

/// Ends the appliance as an operator does, and expects it to go cleanly.
fn stop(mut rig: Rig) {
    if rig.appliance.runs() {
        rig.appliance.stop();
    }
}
