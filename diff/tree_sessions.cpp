#include "diff/tree_sessions.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

namespace relive::diff {

using model::Pid;
using model::TreeTask;

namespace {

using Set = std::set<Pid>;

// Walks the wanted tree from the leaves up. Per task: which sessions its children to be forked need, and which of them
// can be had there: from itself, from below it (an orphan of a session is adopted upwards), or from a lender.
class Search {
 public:
  Search(const TreeInput& input, const Fates& fates) : in_(input), fates_(fates) {}

  Sessions run() && {
    for (const Pid outside : in_.wanted.outside_parents()) {
      for (const Pid root : in_.wanted.children(outside)) visit(root);
    }
    for (const Pid outside : in_.wanted.outside_parents()) roots(outside);
    return std::move(found_);
  }

 private:
  [[nodiscard]] bool created(Pid pid) const { return fates_.created.contains(pid); }

  void visit(Pid pid) {
    Set below;  // sessions that some task below can be in
    Set needed;
    for (const Pid child : in_.wanted.children(pid)) {
      visit(child);
      below.merge(Set(offered_[child]));
      if (const Pid session = born_in(child); session.value != 0) needed.insert(session);
    }
    const TreeTask& task = *in_.wanted.find(pid);
    if (!created(pid)) {
      surplus(below, [&](const TreeTask& other) {
        const auto above = in_.living.ancestors(other.pid);
        return std::ranges::find(above, pid) != above.end();
      });
    }
    Set own = sessions_of(task);
    if (created(pid) && !leads_session(task)) own.insert(task.session);
    std::erase_if(needed, [&](Pid session) { return own.contains(session) || below.contains(session); });
    if (created(pid)) {
      blank(task, needed, below);
    } else {
      for (const Pid session : needed) lend_or(session, pid, below, [&] { blame(pid, session); });
    }
    if (created(pid) && !leads_session(task)) own.erase(task.session);  // comes from above
    below.merge(own);
    offered_[pid] = std::move(below);
  }

  // One that will lead its own session can bring one other along.
  void blank(const TreeTask& task, Set& needed, Set& below) {
    const auto carry = [&](Pid session) { return found_.carried.emplace(task.pid, session).second; };
    const bool may_carry = leads_session(task);
    Set lent;
    for (const Pid session : needed) {
      if (may_carry && (!lendable(session) || !all_below(session, task.pid))) {
        if (carry(session)) continue;
      }
      if (!lendable(session)) {
        stuck(task.pid, session);
        continue;
      }
      lent.insert(session);
    }
    for (const Pid session : lent) lend(session, task.pid, below);
  }

  void roots(Pid outside) {
    const auto& relive = in_.surroundings.relive;
    const bool reaper = outside == in_.surroundings.reaper;
    Set offered;
    if (relive && (relive->pid == outside || reaper)) offered.insert(relive->session);
    surplus(offered, [&](const TreeTask& other) { return reaper || other.parent == outside; });
    for (const auto& [root, sessions] : offered_) {
      const TreeTask& task = *in_.wanted.find(root);
      if (in_.wanted.has(task.parent) || (!reaper && task.parent != outside)) continue;
      const Set direct = reaper ? sessions : sessions_of(task);
      offered.insert(direct.begin(), direct.end());
    }
    for (const Pid root : in_.wanted.children(outside)) {
      const Pid session = born_in(root);
      if (session.value == 0 || offered.contains(session)) continue;
      if (reaper || (relive && relive->pid == outside)) {
        lend_or(session, outside, offered, [&] { stuck(root, session); });
      } else {
        stuck(root, session);
      }
    }
  }

  // What tasks can hand on that are to be ended, where they may.
  template <class Where>
  void surplus(Set& offered, const Where& where) const {
    for (const Pid pid : fates_.callers) {
      const TreeTask& task = *in_.living.find(pid);
      if (!fates_.kept.contains(pid) && can_act(in_, fates_, pid) && where(task)) offered.insert(task.session);
    }
  }

  // The session a blank must be forked in; 0: any, or none is to be forked.
  [[nodiscard]] Pid born_in(Pid pid) const {
    if (!created(pid)) return {};
    const TreeTask& task = *in_.wanted.find(pid);
    if (!leads_session(task)) return task.session;
    const auto found = found_.carried.find(pid);
    return found == found_.carried.end() ? Pid{} : found->second;
  }

  // The sessions that a task brings about, or is in by itself.
  [[nodiscard]] Set sessions_of(const TreeTask& task) const {
    Set found;
    if (created(task.pid)) {
      if (leads_session(task)) found.insert(task.pid);
    } else if (can_act(in_, fates_, task.pid)) {
      found.insert(in_.living.find(task.pid)->session);
      if (fates_.begin_session.contains(task.pid)) found.insert(task.pid);
    }
    return found;
  }

  // No living task hands it on, no wanted task will lead it, nobody outside is in it.
  [[nodiscard]] bool lendable(Pid session) const {
    const TreeTask* leader = in_.wanted.find(session);
    const auto& groups = in_.surroundings.groups;
    return session.value > 0 && leader == nullptr && !found_.lenders.contains(session) &&
           !goes_on(in_, fates_, session) &&
           std::ranges::none_of(groups, [&](const auto& group) { return group.session == session; });
  }

  [[nodiscard]] bool all_below(Pid session, Pid pid) const {
    return std::ranges::all_of(in_.wanted.in_session(session), [&](Pid member) {
      const auto above = in_.wanted.ancestors(member);
      return std::ranges::find(above, pid) != above.end();
    });
  }

  template <class Else>
  void lend_or(Pid session, Pid parent, Set& offered, const Else& otherwise) {
    if (lendable(session)) {
      lend(session, parent, offered);
    } else {
      otherwise();
    }
  }

  void lend(Pid session, Pid parent, Set& offered) {
    found_.lenders.emplace(session, parent);
    offered.insert(session);
    // What is left of it, and cannot fork, must go before the number can be had again.
    for (const Pid member : in_.living.in_session(session)) {
      if (!fates_.kept.contains(member) || fates_.begin_session.contains(member)) continue;
      found_.blamed.emplace(member, fmt::format("in session {}, whose number must become free", session.value));
    }
  }

  void blame(Pid pid, Pid session) {
    found_.blamed.emplace(pid, fmt::format("has a child to be forked in session {}, and is in another", session.value));
  }

  // A blank cannot have the session from anywhere: another try without the living tasks that keep its number.
  void stuck(Pid pid, Pid session) {
    bool blamed = false;
    for (const Pid member : in_.living.in_session(session)) {
      if (!fates_.kept.contains(member)) continue;
      found_.blamed.emplace(member, fmt::format("in session {}, which must be begun again", session.value));
      blamed = true;
    }
    if (blamed) return;
    found_.hopeless.emplace(
        pid, fmt::format("no task that could fork it, or its children, is in session {}", session.value));
  }

  const TreeInput& in_;
  const Fates& fates_;
  std::map<Pid, Set> offered_;
  Sessions found_;
};

}  // namespace

bool goes_on(const TreeInput& input, const Fates& fates, Pid session) {
  return std::ranges::any_of(input.living.in_session(session),
                             [&](Pid member) { return fates.kept.contains(member) && can_act(input, fates, member); });
}

Sessions find_sessions(const TreeInput& input, const Fates& fates) { return Search(input, fates).run(); }

}  // namespace relive::diff
