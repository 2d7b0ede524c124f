//! TLS settings of hostnames, from the routes that own them.

use std::{sync::Arc, time::SystemTime};

use crate::{
    api::ConditionReason,
    table::{Certificate, Host, HostPattern, HostTls},
};

use super::{
    Build, Problem,
    claims::Granted,
    draft::{Draft, TlsDraft},
    judge::RouteFindings,
    text::printable,
};

impl Build<'_> {
    /// Applies the route's TLS settings to the hostnames for which they were granted.
    pub(super) fn set_tls(&mut self, draft: &Draft, granted: &[Granted], findings: &mut RouteFindings) {
        let Some(wanted) = &draft.tls else { return };
        let certificates = self.certificates(wanted, findings);
        let identity = match certificates.as_slice() {
            [] => Err(Arc::from("none of the route's certificates can be used")),
            certificates => Ok(self.memory.certificates.identity(certificates)),
        };
        let tls = HostTls { owner: draft.name.clone(), insecure_policy: wanted.insecure_policy, identity };
        let tls = Arc::new(tls);
        for granted in granted.iter().filter(|granted| granted.owns_tls) {
            warn_about_names(&granted.host, &certificates, findings);
            self.compiled.table.set_tls(&granted.host, tls.clone());
        }
    }

    /// Sets the identity for TLS handshakes to which no route's settings apply.
    pub(super) fn set_default_identity(&mut self) {
        let Some(name) = &self.settings.default_certificate else { return };
        match self.memory.certificates.read(self.view, name) {
            Ok(certificate) => {
                self.look_again_at(certificate.not_after);
                let identity = self.memory.certificates.identity(&[certificate]);
                self.compiled.table.set_default_identity(Some(identity));
            }
            Err(fault) => {
                self.compiled.setting_problems.push(printable(format!("--default-certificate: {fault}")));
            }
        }
    }

    fn certificates(&mut self, wanted: &TlsDraft, findings: &mut RouteFindings) -> Vec<Arc<Certificate>> {
        let mut certificates = Vec::new();
        for (position, name) in wanted.secrets.iter().enumerate() {
            let path = format!("spec.tls.certificateRefs[{position}].name");
            match self.memory.certificates.read(self.view, name) {
                Ok(certificate) => {
                    if certificate.not_after <= self.now {
                        findings
                            .warn(path, format!("the certificate in Secret {name} has expired; it is still served"));
                    }
                    self.look_again_at(certificate.not_after);
                    certificates.push(certificate);
                }
                Err(fault) => {
                    let reason = ConditionReason::InvalidCertificateRef;
                    findings.unresolved(Problem::new(path, reason, &*fault));
                }
            }
        }
        certificates
    }

    fn look_again_at(&mut self, time: SystemTime) {
        if time > self.now {
            let next = self.compiled.next_look.map_or(time, |next| next.min(time));
            self.compiled.next_look = Some(next);
        }
    }
}

/// Warns of hosts that no certificate covers. A wildcard covers one label in a certificate (RFC 9525 §6.3) and any
/// number of labels in a route.
fn warn_about_names(host: &HostPattern, certificates: &[Arc<Certificate>], findings: &mut RouteFindings) {
    if certificates.is_empty() {
        return;
    }
    let path = || "spec.tls.certificateRefs".to_owned();
    match host {
        HostPattern::Exact(name) => {
            let covered = |host: &Host<'_>| certificates.iter().any(|certificate| certificate.covers(host));
            if !Host::from_name(name).is_ok_and(|host| covered(&host)) {
                findings.warn(path(), format!("no certificate covers hostname {name}; clients will reject it"));
            }
        }
        HostPattern::Wildcard(suffix) => {
            let pattern = format!("*.{suffix}");
            if certificates.iter().any(|certificate| certificate.names.iter().any(|name| **name == *pattern)) {
                let message = format!("a certificate for {pattern} covers one label only, not a.b.{suffix}");
                findings.warn(path(), message);
            } else {
                findings.warn(path(), format!("no certificate covers {pattern}; clients may reject it"));
            }
        }
        HostPattern::Any => {}
    }
}
