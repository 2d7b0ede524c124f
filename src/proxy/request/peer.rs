//! The client at the other end of a connection.

use std::{net::IpAddr, sync::Arc};

use crate::table::{Certificate, Host, RouteTable};

/// Who is at the other end.
#[derive(Debug)]
pub(crate) struct Peer {
    pub address: IpAddr,
    pub tls: Option<TlsPeer>,
}

/// What decided the certificate of a connection.
#[derive(Debug)]
pub(crate) enum TlsPeer {
    /// The host that the client named has TLS settings.
    Named(Host<'static>),
    /// It named none, or one without: the default identity. That is the operator's, so it may stand for hosts of any
    /// namespace.
    Default {
        /// The certificate that was sent.
        sent: Arc<Certificate>,
        /// Whether it named a host at all.
        named: bool,
    },
}

impl TlsPeer {
    /// Whether a request for a host belongs on the connection. Asked anew for each request, of the table of that
    /// moment: a certificate that was replaced meanwhile makes no difference.
    pub(crate) fn serves(&self, table: &RouteTable, host: &Host<'_>) -> bool {
        match self {
            Self::Named(name) => table.select_the_same(name, host),
            // A client that named another host does not get to one that has TLS settings of its own.
            Self::Default { sent, named } => sent.covers(host) && !(*named && table.tls(host).is_some()),
        }
    }
}
