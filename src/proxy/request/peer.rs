//! The client at the other end of a connection.

use std::{net::IpAddr, sync::Arc};

use crate::table::{Certificate, Host, RouteTable};

/// The client of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub address: IpAddr,
    pub tls: Option<TlsPeer>,
}

/// How the certificate of a connection was selected.
#[derive(Debug)]
pub(crate) enum TlsPeer {
    /// The host that the client named has TLS settings.
    Named(Host<'static>),
    /// The client named no host, or one without TLS settings, and got the default identity. It is the operator's, so it
    /// may stand for hosts of any namespace.
    Default {
        /// The certificate that was sent.
        sent: Arc<Certificate>,
        /// Whether the client named a host.
        named: bool,
    },
}

impl TlsPeer {
    /// Whether a request for a host belongs on the connection. Checked for each request, in the current table: it does
    /// not matter if the certificate has been replaced since.
    pub(crate) fn serves(&self, table: &RouteTable, host: &Host<'_>) -> bool {
        match self {
            Self::Named(name) => table.select_the_same(name, host),
            // A client that named another host must not reach one that has its own TLS settings.
            Self::Default { sent, named } => sent.covers(host) && !(*named && table.tls(host).is_some()),
        }
    }
}
