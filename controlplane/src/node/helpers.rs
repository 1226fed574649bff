//! Threads for what may take long. The runtime's helpers take one thing after another, of whatever kind, and may all be
//! waiting for a disk or a name server: requests get a share of them only ([`helped`]), and what must not wait for
//! anything else has a thread of its own ([`Lane`]).

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use tokio::sync::{Semaphore, oneshot};
use tokio::task::spawn_blocking;
use tracing::error;

use super::Refusal;
use crate::control::HELPING;

/// How many requests are worked on at once.
const REQUESTS: usize = 2;

/// Does what a request asks for on a helper thread, when its turn comes.
pub(crate) async fn helped<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    static TURNS: Semaphore = Semaphore::const_new(REQUESTS);
    let turn = TURNS.acquire().await;
    on_helper(move || {
        let _turn = turn; // until the work has ended, even if the caller has gone
        work()
    })
    .await
}

/// Does what may take long on a helper thread.
pub(super) async fn on_helper<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    spawn_blocking(work).await.unwrap_or_else(|failure| {
        error!("a request could not be completed: {failure}");
        Err(Refusal::Failed)
    })
}

type Work = Box<dyn FnOnce() + Send>;

/// A thread for one kind of work. It ends with this value, after the work that is under way.
pub struct Lane {
    work: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl Lane {
    /// Starts a thread of that name.
    ///
    /// # Errors
    ///
    /// When the system refuses it.
    pub fn open(name: &str) -> io::Result<Self> {
        let (work, given) = mpsc::channel::<Work>();
        let run = move || {
            let _ = rustix::process::setpriority_process(None, HELPING); // it works without, too
            for work in given {
                if catch_unwind(AssertUnwindSafe(work)).is_err() {
                    error!("something could not be completed; the line above says why");
                }
            }
        };
        let thread = Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self { work: Some(work), thread: Some(thread) })
    }

    /// Does `work` there, and waits until it has ended.
    pub async fn run(&self, work: impl FnOnce() + Send + 'static) {
        let (done, is_done) = oneshot::channel::<()>();
        let work = move || {
            let _done = done; // told by its end, whatever becomes of the work
            work();
        };
        if let Some(lane) = &self.work {
            let _ = lane.send(Box::new(work)); // the thread lives as long as we do
        }
        let _ = is_done.await;
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it does not panic
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::runtime::Builder;
    use tokio::sync::RwLock;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn however_many_requests_there_are_a_helper_is_left_for_other_work() {
        let mut runtime = Builder::new_current_thread();
        let runtime = runtime.enable_all().max_blocking_threads(REQUESTS + 1).build().unwrap();
        runtime.block_on(async {
            let gate = Arc::new(RwLock::new(()));
            let closed = gate.write().await;
            let requests: Vec<_> = (0..10 * REQUESTS)
                .map(|_| {
                    let gate = Arc::clone(&gate);
                    tokio::spawn(helped(move || {
                        drop(gate.blocking_read());
                        Ok(())
                    }))
                })
                .collect();
            tokio::task::yield_now().await; // all have asked
            // Callers that go away leave no room for more than may be under way.
            requests.iter().take(REQUESTS).for_each(|request| request.abort());
            tokio::task::yield_now().await;
            let other = timeout(PATIENCE, on_helper(|| Ok(()))).await;
            drop(closed);
            assert!(matches!(other, Ok(Ok(()))), "{other:?}");
            for request in requests.into_iter().skip(REQUESTS) {
                request.await.unwrap().unwrap();
            }
        });
    }

    #[tokio::test]
    async fn a_lane_outlives_what_goes_wrong_on_it_and_ends_after_its_work() {
        let lane = Lane::open("test").unwrap();
        lane.run(|| panic!("as the test wants it")).await;
        let (tell, told) = mpsc::channel();
        let begun = tell.clone();
        lane.run(move || begun.send("begun").unwrap()).await;
        assert_eq!(told.recv_timeout(PATIENCE), Ok("begun"));
        let (release, released) = mpsc::channel::<()>();
        let mut work = Box::pin(lane.run(move || {
            let _ = released.recv();
            tell.send("done").unwrap();
        }));
        assert!(timeout(Duration::from_millis(1), &mut work).await.is_err(), "it is under way");
        drop(work);
        drop(release);
        drop(lane);
        assert_eq!(told.try_recv(), Ok("done"));
    }
}
