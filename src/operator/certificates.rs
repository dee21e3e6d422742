//! Which certificate the members of a cluster shall have: the one they have, or a new one, and whom they believe.
//!
//! One certificate is shared by all members and by whoever else dials them; it is renewed in place while half of its
//! time is left, and everybody takes it up within minutes, each in its own moment. Old and new are of one authority, so
//! that nobody is refused meanwhile. When the authority itself is a new one (its Secret was deleted: lost, or on
//! purpose), the same is had in three steps by the age of that authority: first it is believed beside the old one, then
//! it issues, then the old one is believed no more.
//!
//! Pure but for the randomness of keys: what there is and the time are arguments.

use std::time::{Duration, SystemTime};

use crate::api::names;
use crate::ident::ClusterId;
use crate::net::pki::{Authority, Identity};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// For how long a certificate is issued: an operator that is away must be away for long to do harm.
const LIFETIME: Duration = DAY.saturating_mul(365);
/// A certificate is renewed when less than this is left of it.
const RENEW_BEFORE: Duration = DAY.saturating_mul(183);
/// Everybody has taken up a changed Secret by then: kubelets write it into their pods within about two minutes, the
/// operator's replicas read it within five.
const SETTLED: Duration = Duration::from_secs(10 * 60);

/// The cluster that a certificate is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whose<'a> {
    pub cluster: &'a str,
    pub namespace: &'a str,
    pub id: ClusterId,
}

/// The certificate that the members shall have now, if they have `have` and the authority was made `age` ago. An
/// error: the authority is broken.
pub(super) fn decide(
    whose: Whose<'_>,
    authority: &Authority,
    age: Duration,
    have: Option<&Identity>,
    now: SystemTime,
) -> Result<Identity, String> {
    let name = names::peer_name(whose.cluster, whose.namespace);
    let ours = authority.certificate_pem();
    let Some(have) = have else { return issue(whose, authority, now) };
    let believing = |authorities: String| Identity { authority_pem: authorities, ..have.clone() };
    let is_ours = |at| believing(ours.to_owned()).check(&name, at).is_ok();
    // Whoever has it, has it in use.
    let in_use = have.check(&name, now).is_ok();
    let both = || {
        if have.authority_pem.contains(ours) {
            have.authority_pem.clone()
        } else {
            format!("{ours}{}", have.authority_pem)
        }
    };
    if in_use && age < SETTLED && !is_ours(now) {
        return Ok(believing(both()));
    }
    let issued = if is_ours(now + RENEW_BEFORE) { believing(ours.to_owned()) } else { issue(whose, authority, now)? };
    let authority_pem = if in_use && age < 2 * SETTLED { both() } else { ours.to_owned() };
    Ok(Identity { authority_pem, ..issued })
}

fn issue(whose: Whose<'_>, authority: &Authority, now: SystemTime) -> Result<Identity, String> {
    let wildcard = names::peer_wildcard(whose.cluster, whose.namespace);
    let issued = authority
        .issue(&[wildcard], &format!("armdb://{}/member", whose.id), now + LIFETIME)
        .map_err(|error| error.to_string())?;
    issued.check(&names::peer_name(whose.cluster, whose.namespace), now)?;
    Ok(issued)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KV: Whose<'_> = Whose { cluster: "kv", namespace: "prod", id: ClusterId(7) };
    const LONG_AGO: Duration = Duration::from_secs(365 * 24 * 3600);

    fn authority() -> Authority {
        Authority::new("kv").expect("made")
    }

    #[test]
    fn a_certificate_is_kept_until_half_its_time_is_gone_and_then_renewed() {
        let (authority, start) = (authority(), SystemTime::now());
        let first = decide(KV, &authority, Duration::ZERO, None, start).expect("issued");
        let at = |day: u32| decide(KV, &authority, LONG_AGO, Some(&first), start + day * DAY).expect("decided");
        assert_eq!(at(0), first);
        assert_eq!(at(181), first);
        let second = at(183);
        assert_ne!(second.certificate_pem, first.certificate_pem);
        assert_eq!(second.authority_pem, first.authority_pem, "who has the one believes the other");
        assert_eq!(second.check("member.kv-nodes.prod.svc", start + 500 * DAY), Ok(()));
        // The operator was away for long.
        assert_ne!(at(1000).certificate_pem, first.certificate_pem);
    }

    #[test]
    fn what_is_no_certificate_of_the_cluster_is_replaced() {
        let (authority, now) = (authority(), SystemTime::now());
        let good = decide(KV, &authority, LONG_AGO, None, now).expect("issued");
        let other = Whose { cluster: "other", ..KV };
        let wrong = [
            Identity { certificate_pem: "garbage".into(), ..good.clone() },
            Identity { key_pem: issue(KV, &authority, now).expect("issued").key_pem, ..good.clone() },
            issue(other, &authority, now).expect("issued"),
        ];
        for have in wrong {
            let decided = decide(KV, &authority, LONG_AGO, Some(&have), now).expect("issued");
            assert_eq!(decided.check("member.kv-nodes.prod.svc", now), Ok(()));
            assert_ne!(decided.certificate_pem, have.certificate_pem);
        }
        let without = Identity { authority_pem: String::new(), ..good.clone() };
        assert_eq!(decide(KV, &authority, LONG_AGO, Some(&without), now), Ok(good));
    }

    #[test]
    fn a_new_authority_takes_over_without_anybody_being_refused() {
        let (old, new, start) = (authority(), authority(), SystemTime::now());
        let name = "member.kv-nodes.prod.svc";
        let mut steps = vec![decide(KV, &old, LONG_AGO, None, start).expect("issued")];
        for minutes in [0, 5, 9, 10, 15, 19, 20, 25] {
            let age = Duration::from_secs(minutes * 60);
            let step = decide(KV, &new, age, steps.last(), start + age).expect("decided");
            if steps.last() != Some(&step) {
                steps.push(step);
            }
        }
        assert_eq!(steps.len(), 4, "believed, issuing, alone");
        for pair in steps.windows(2) {
            for (shown, believing) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
                let seen = Identity { authority_pem: believing.authority_pem.clone(), ..shown.clone() };
                assert_eq!(seen.check(name, start), Ok(()), "whoever is a step ahead or behind is believed");
            }
        }
        assert_eq!(steps[3].authority_pem, new.certificate_pem());
        assert_eq!(steps[3].certificate_pem, steps[2].certificate_pem);
    }

    #[test]
    fn an_authority_whose_key_is_not_its_own_issues_nothing() {
        let broken = Authority::from_pem("kv", authority().certificate_pem().into(), authority().key_pem().into());
        decide(KV, &broken, LONG_AGO, None, SystemTime::now()).expect_err("nobody would believe it");
        let garbage = Authority::from_pem("kv", "x".into(), "y".into());
        decide(KV, &garbage, LONG_AGO, None, SystemTime::now()).expect_err("no key");
    }
}
