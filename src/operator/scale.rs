//! How many pods a partition has, and which volumes nobody needs any more: pure decisions.
//!
//! More members exist as soon as they are asked for; fewer only after the register no longer counts on those that go.
//! A volume is given up only when it was asked for, no pod uses it, and its storage neither votes nor may vote.

use super::facts::{ClaimFacts, PodFacts};
use crate::ident::ClusterId;
use crate::topology::view::PartitionView;

/// Pods that shall exist: those asked for, and as many more as still vote.
pub fn pods(asked: i32, live: Option<i32>, view: Option<&PartitionView>) -> i32 {
    let keep = match view.map(highest_voter) {
        Some(Some(highest)) => highest + 1,
        // Not known who votes: nobody goes.
        Some(None) | None => live.unwrap_or(0),
    };
    asked.max(keep.min(live.unwrap_or(keep)))
}

/// The highest ordinal that votes; None: not known of everyone.
fn highest_voter(view: &PartitionView) -> Option<i32> {
    if view.voters.is_empty() {
        return None;
    }
    let ordinals = view.voters.iter().map(|sid| {
        let holder = view.members.iter().find(|member| member.sid == Some(*sid))?;
        i32::try_from(holder.ordinal).ok()
    });
    ordinals.collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// Claims of members that were scaled away and count no more.
pub fn surplus_claims<'a>(
    claims: impl IntoIterator<Item = (i32, &'a ClaimFacts)>,
    asked: i32,
    pods: &[(i32, &PodFacts)],
    view: Option<&PartitionView>,
    id: ClusterId,
) -> Vec<&'a ClaimFacts> {
    let Some(highest) = view.and_then(highest_voter) else { return Vec::new() };
    claims
        .into_iter()
        .filter(|(ordinal, claim)| {
            *ordinal >= asked
                && *ordinal > highest
                && !claim.terminating
                && claim.is_of(id)
                && pods.iter().all(|(used, _)| used != ordinal)
        })
        .map(|(_, claim)| claim)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::view;
    use super::*;
    use crate::ident::Sid;

    #[test]
    fn more_members_at_once_fewer_after_they_lost_their_vote() {
        let three = view(&[1, 2, 3], 3);
        assert_eq!(pods(3, None, None), 3);
        assert_eq!(pods(5, Some(3), Some(&three)), 5);
        let five = view(&[1, 2, 3, 4, 5], 5);
        assert_eq!(pods(3, Some(5), Some(&five)), 5, "all five vote");
        assert_eq!(pods(3, Some(5), Some(&view(&[1, 2, 3, 4], 5))), 4);
        assert_eq!(pods(3, Some(5), Some(&view(&[1, 2, 3], 5))), 3);
    }

    #[test]
    fn nobody_goes_while_it_is_not_known_who_votes() {
        assert_eq!(pods(3, Some(5), None), 5);
        let mut unheard = view(&[1, 2, 3, 4], 5);
        unheard.members[3].sid = None;
        assert_eq!(pods(3, Some(5), Some(&unheard)), 5);
        assert_eq!(pods(3, Some(5), Some(&view(&[], 5))), 5);
    }

    #[test]
    fn what_a_foreign_hand_scaled_away_comes_back() {
        assert_eq!(pods(3, Some(1), Some(&view(&[1, 2, 3], 3))), 3);
    }

    #[test]
    fn a_volume_is_given_up_only_when_its_member_is_gone_and_counts_no_more() {
        let id = ClusterId(7);
        let claim =
            |name: &str| ClaimFacts { name: name.into(), cluster_id: Some(id.to_string()), ..ClaimFacts::default() };
        let (third, fourth) = (claim("data-kv-0-2"), claim("data-kv-0-3"));
        let claims = || [(2, &third), (3, &fourth)];
        let three = view(&[1, 2, 3], 3);
        assert_eq!(surplus_claims(claims(), 3, &[], Some(&three), id), [&fourth]);
        assert_eq!(surplus_claims(claims(), 2, &[], Some(&three), id), [&fourth], "kv-0-2 still votes");
        let pod = PodFacts::default();
        assert!(surplus_claims(claims(), 3, &[(3, &pod)], Some(&three), id).is_empty(), "its pod is there");
        assert!(surplus_claims(claims(), 3, &[], None, id).is_empty());
        assert!(surplus_claims(claims(), 3, &[], Some(&three), ClusterId(8)).is_empty(), "of another cluster");
        let mut lost = three;
        lost.voters.push(Sid(99));
        assert!(
            surplus_claims(claims(), 3, &[], Some(&lost), id).is_empty(),
            "a voter that nobody holds may be this one"
        );
    }
}
