//! vsftpd on a real server.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::Server;
use crate::process::eventually;

impl Server {
    /// Starts vsftpd: files for reading at the top, among them `large`, and `/upload` for writing;
    /// passive data connections come to ports 50000 to 50100.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn serve_ftp(&mut self) {
        // IPv4 comes there too.
        self.serve_ftp_with(
            "listen=NO\nlisten_ipv6=YES\nconnect_from_port_20=YES",
            Ipv4Addr::LOCALHOST,
        );
    }

    /// As [`Self::serve_ftp`], but active data connections come from its own address even to those
    /// who ask at `published`: vsftpd takes the address that it was asked on, so socat stands between
    /// (as a rule that redirects would, FEATURES AR-04).
    ///
    /// # Panics
    /// If it does not answer.
    pub fn serve_ftp_from_own_address(&mut self, published: Ipv4Addr) {
        let own = self.address;
        let lines = format!(
            "listen=YES\nlisten_address={own}\nport_promiscuous=YES\nconnect_from_port_20=NO"
        );
        self.serve_ftp_with(&lines, own);
        let mut socat = self.namespace.command("socat");
        socat.arg(format!("TCP4-LISTEN:21,bind={published},fork,reuseaddr"));
        socat.arg(format!("TCP4:{own}:21"));
        self.start_program(&mut socat);
        self.wait_for_ftp(published);
    }

    fn serve_ftp_with(&mut self, lines: &str, at: Ipv4Addr) {
        // vsftpd leaves root behind, so this cannot be in the laboratory's own folder.
        let open = fs::Permissions::from_mode(0o755);
        let folder = tempfile::Builder::new().prefix("sluice-ftp-").permissions(open).tempdir();
        let folder = folder.expect("temporary files can be written");
        let [home, empty] = ["ftp", "empty"].map(|name| folder.path().join(name));
        let upload = home.join("upload");
        for folder in [&upload, &empty] {
            fs::create_dir_all(folder).expect("as above");
        }
        fs::set_permissions(&upload, fs::Permissions::from_mode(0o777)).expect("as above");
        fs::write(home.join("large"), super::large()).expect("as above");
        fs::write(home.join("name"), &self.name).expect("as above");
        let common = [
            "background=NO",
            "anonymous_enable=YES",
            "no_anon_password=YES",
            "write_enable=YES",
            "anon_upload_enable=YES",
            "anon_world_readable_only=NO",
            "pasv_min_port=50000",
            "pasv_max_port=50100",
            "seccomp_sandbox=NO",
            "isolate_network=NO",
            "accept_timeout=10",
            "connect_timeout=10",
        ];
        let places = format!(
            "anon_root={}\nsecure_chroot_dir={}\nvsftpd_log_file={}\n",
            home.display(),
            empty.display(),
            self.files.join("ftp.log").display()
        );
        let file = self.files.join("vsftpd.conf");
        fs::write(&file, format!("{}\n{lines}\n{places}", common.join("\n"))).expect("as above");
        self.ftp = Some(folder);
        let mut vsftpd = self.namespace.command("vsftpd");
        self.start_program(vsftpd.arg(&file));
        self.wait_for_ftp(at);
    }

    fn wait_for_ftp(&self, at: Ipv4Addr) {
        let to = SocketAddr::from((at, 21));
        let answers = || self.namespace.enter(|| std::net::TcpStream::connect(to)).ok();
        eventually(Duration::from_secs(5), answers)
            .unwrap_or_else(|| panic!("{}: vsftpd did not answer in 5 s", self.name));
    }

    /// What came to `/upload/name`, if anything did.
    pub fn uploaded_by_ftp(&self, name: &str) -> Option<Vec<u8>> {
        let folder = self.ftp.as_ref().expect("vsftpd was started");
        fs::read(folder.path().join("ftp/upload").join(name)).ok()
    }
}
