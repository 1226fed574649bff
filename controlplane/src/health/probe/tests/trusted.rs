//! Who may have signed a server's certificate: a file that changes, that is bad, or that hangs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

/// A server with a certificate, and the folder for the file that vouches for it.
struct Bench {
    at: SocketAddr,
    folder: tempfile::TempDir,
    certificate: String,
    tools: Tools,
}

impl Bench {
    async fn start() -> Self {
        let (acceptor, certificate) = tls_server();
        let answer = vec![step("\r\n\r\n", &page("200 OK", ""))];
        let act = Act::new(Conduct::Plays, false, answer, b"-");
        let at = Act { tls: Some(acceptor), ..act }.begin().await;
        Self { at, folder: tempfile::tempdir().unwrap(), certificate, tools: Tools::default() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    async fn outcome(&self, file: &Path) -> Result<(), Failure> {
        let check = check(json!({ "type": "https", "host": "a.test", "ca": file }));
        ask(&Kernel, &self.tools, &target(self.at), &check, 0).await
    }

    async fn reason(&self) -> String {
        self.outcome(&self.file()).await.unwrap_err().0
    }
}

/// Longer than what a file said counts without another look.
const LATER: Duration = Duration::from_millis(1100);

#[test]
fn a_file_of_certificates_is_read_again_when_it_changes() {
    runtime().block_on(async {
        let bench = Bench::start().await;
        let file = bench.file();
        assert!(bench.reason().await.contains("ca.pem cannot be read: No such file"));
        sleep(LATER).await;
        fs::write(&file, &bench.certificate).unwrap();
        assert_eq!(bench.outcome(&file).await, Ok(()));
        sleep(LATER).await;
        fs::write(&file, tls_server().1).unwrap();
        assert!(bench.reason().await.contains("TLS with 127.0.0.1:"));
        sleep(LATER).await;
        fs::write(&file, "nothing").unwrap();
        assert!(bench.reason().await.ends_with("ca.pem are none"));
        sleep(LATER).await;
        fs::write(&file, vec![b'x'; 5 << 20]).unwrap();
        assert!(bench.reason().await.ends_with("it is too long"));
    });
}

/// A pipe that nobody writes to stands for a network file system whose server is gone: to open it hangs.
#[test]
fn a_file_that_hangs_keeps_nobody_waiting_and_what_it_said_before_counts() {
    runtime().block_on(async {
        let bench = Bench::start().await;
        let file = bench.file();
        fs::write(&file, &bench.certificate).unwrap();
        assert_eq!(bench.outcome(&file).await, Ok(()));
        fs::remove_file(&file).unwrap();
        let pipe = |file: &Path| {
            assert!(Command::new("mkfifo").arg(file).status().unwrap().success());
        };
        pipe(&file);
        sleep(LATER).await;
        let threads =
            || fs::read_dir("/proc/self/task").unwrap().filter(named_certificates).count();
        for _ in 0..20 {
            assert_eq!(bench.outcome(&file).await, Ok(()));
        }
        // Others of this process end.
        let one = async {
            while threads() != 1 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let alone = tokio::time::timeout(Duration::from_secs(5), one).await;
        assert!(alone.is_ok(), "{} threads still try to read it", threads());

        // More files that hang than threads may; none has said anything before.
        let others: Vec<_> = (0..40).map(|n| bench.folder.path().join(n.to_string())).collect();
        let started = Instant::now();
        let mut all = Vec::new();
        for other in &others {
            pipe(other);
            all.push(bench.outcome(other));
        }
        for outcome in futures(all).await {
            let Failure(reason) = outcome.unwrap_err();
            assert!(reason.ends_with("could not be read in time"), "{reason}");
        }
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        assert!((2..=18).contains(&threads()), "{}", threads());
        assert_eq!(bench.outcome(&file).await, Ok(()));
    });
}

fn named_certificates(task: &io::Result<fs::DirEntry>) -> bool {
    let name = fs::read_to_string(task.as_ref().unwrap().path().join("comm"));
    name.is_ok_and(|name| name.trim() == "certificates")
}

/// All of them at once.
async fn futures<T>(mut all: Vec<impl Future<Output = T>>) -> Vec<T> {
    use std::task::Poll;
    let mut pinned: Vec<_> = all.drain(..).map(|it| (Box::pin(it), None)).collect();
    std::future::poll_fn(move |context| {
        let mut is_done = true;
        for (future, outcome) in &mut pinned {
            if outcome.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(it) => *outcome = Some(it),
                    Poll::Pending => is_done = false,
                }
            }
        }
        match is_done {
            true => Poll::Ready(pinned.drain(..).filter_map(|(_, outcome)| outcome).collect()),
            false => Poll::Pending,
        }
    })
    .await
}
