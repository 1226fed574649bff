//! Threads for what may take long. The runtime's helpers take one thing after another, of whatever kind, and may all be
//! waiting for a disk or a name server: requests get a share of them only ([`helped`]). What must not wait for
//! anything else, or takes memory that no other thread is to take as well, has a thread of its own ([`Lane`]).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread::{self, Builder, JoinHandle};

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

/// A thread for one kind of work, one after another. It ends with this value, after the work that is under way. If the
/// system refuses a thread, the runtime's helpers do the work.
pub struct Lane {
    work: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl Lane {
    /// Starts a thread of that name, on the caller's cores.
    pub fn open(name: &str) -> Self {
        let (work, given) = mpsc::channel::<Work>();
        let run = move || {
            let _ = rustix::process::setpriority_process(None, HELPING); // it works without, too
            for work in given {
                if catch_unwind(AssertUnwindSafe(work)).is_err() {
                    error!("something could not be completed; the line above says why");
                }
            }
        };
        match Builder::new().name(name.to_owned()).spawn(run) {
            Ok(thread) => Self { work: Some(work), thread: Some(thread) },
            Err(error) => {
                error!("no thread for what is to {name}, which now waits for requests: {error}");
                Self { work: None, thread: None }
            }
        }
    }

    /// The same, on the cores of the runtime's helpers: a thread inherits them from the one that starts it.
    pub async fn open_aside(name: &'static str) -> Self {
        let opened = spawn_blocking(move || Self::open(name)).await;
        opened.unwrap_or(Self { work: None, thread: None })
    }

    /// Does `work` there, even if the caller goes away, and tells what comes of it: nothing if it panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (tell, told) = oneshot::channel();
        let work = move || {
            let _ = tell.send(work()); // the caller may have gone
        };
        match &self.work {
            Some(lane) => drop(lane.send(Box::new(work))), // the thread lives as long as we do
            None => drop(spawn_blocking(work)),
        }
        told.await.ok()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.work = None;
        let elsewhere = |thread: &JoinHandle<()>| thread.thread().id() != thread::current().id();
        if let Some(thread) = self.thread.take().filter(elsewhere) {
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
        let lane = Lane::open("test");
        let broken: Option<()> = lane.run(|| panic!("as the test wants it")).await;
        assert_eq!(broken, None);
        assert_eq!(lane.run(|| 5).await, Some(5));
        let (tell, told) = mpsc::channel();
        let begun = tell.clone();
        lane.run(move || begun.send("begun").unwrap()).await.unwrap();
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

    #[tokio::test]
    async fn a_lane_may_be_given_up_by_its_own_work() {
        let lane = Arc::new(Lane::open("test"));
        let last = Arc::clone(&lane);
        let (release, released) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let mut work = Box::pin(lane.run(move || {
            let _ = released.recv();
            drop(last);
            tell.send("done").unwrap();
        }));
        assert!(timeout(Duration::from_millis(1), &mut work).await.is_err(), "it is under way");
        drop(work);
        drop(lane);
        release.send(()).unwrap();
        assert_eq!(told.recv_timeout(PATIENCE), Ok("done"));
    }
}
