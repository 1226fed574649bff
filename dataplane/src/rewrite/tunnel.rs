//! Step 5d, tunnelling (FWD-12): the packet travels inside another IPv4 packet (RFC 2003), and is itself
//! untouched.

use std::net::Ipv4Addr;

use crate::frame::Frame;
use crate::wire::ethernet::{self, Ethernet, Mac, ethertype};
use crate::wire::ipv4::{self, Header, Ipv4, protocol};

/// Numbers the outer packets that may be fragmented on the way.
pub struct Identification(u16);

impl Identification {
    /// Begins with `first`.
    pub fn starting_at(first: u16) -> Self {
        Self(first)
    }

    /// Puts `frame`'s packet into one from `source` to `server`; gives the new packet's length.
    /// `None`, and no change, if the buffer has no room in front.
    ///
    /// - "Don't fragment" is copied from the inner packet (RFC 2003 section 3.1), so that path MTU discovery works.
    /// - A packet that must not be fragmented needs no identification (RFC 6864 section 4.1); any other gets the
    ///   next number, because the fragments of two packets must not be mixed up.
    /// - The type of service is copied, so that both travel in the same class (RFC 2003) and congestion
    ///   noted outside counts inside (RFC 6040 section 4.1, "normal mode").
    pub fn wrap<F: Frame>(
        &mut self,
        frame: &mut F,
        source: Ipv4Addr,
        server: Ipv4Addr,
    ) -> Option<u16> {
        let (inner, _) = Ipv4::split(crate::parse::ip_packet(frame)).ok()?;
        let dont_fragment = inner.must_not_be_fragmented();
        let (inner_length, type_of_service) = (inner.total_length(), inner.type_of_service());
        let total_length = inner_length.checked_add(ipv4::HEADER as u16)?;
        if !frame.grow_front(ipv4::HEADER) {
            return None;
        }
        frame.truncate(ethernet::HEADER + usize::from(total_length)); // Ethernet's padding stays here
        if !dont_fragment {
            self.0 = self.0.wrapping_add(1);
        }
        let identification = if dont_fragment { 0 } else { self.0 };
        let (mut ethernet, packet) = Ethernet::split(frame.bytes_mut()).ok()?;
        ethernet.write(Mac::default(), Mac::default(), ethertype::IPV4);
        let outer = Header {
            type_of_service,
            total_length,
            identification,
            dont_fragment,
            protocol: protocol::IPV4,
            source,
            destination: server,
        };
        *packet.first_chunk_mut()? = outer.to_bytes();
        Some(total_length)
    }
}
