#include "diff/tree_groups.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace relive::diff {

using model::Pid;
using model::TreeTask;

namespace {

class Search {
 public:
  Search(const TreeInput& input, const Fates& fates, const std::vector<Birth>& births)
      : in_(input), fates_(fates), births_(births) {}

  Groups run() && {
    for (const Birth& birth : births_) found_.numbers.insert(birth.pid);
    joins();
    std::vector<Pid> lenders;
    for (auto& [group, origin] : found_.origins) {
      if (!settle(group, origin)) lenders.push_back(group);
    }
    for (const Pid group : lenders) lend(group);
    move_out();
    return std::move(found_);
  }

 private:
  [[nodiscard]] bool begins_session(const TreeTask& task) const {
    return leads_session(task) && (fates_.created.contains(task.pid) || fates_.begin_session.contains(task.pid));
  }

  void joins() {
    for (const TreeTask& task : in_.wanted.forest().tasks) {
      if (begins_session(task)) continue;
      const TreeTask* living = fates_.kept.contains(task.pid) ? in_.living.find(task.pid) : nullptr;
      const bool stays = living != nullptr && living->group == task.group && !found_.numbers.contains(task.group);
      if (!stays) found_.origins[task.group].members.insert(task.pid);
    }
  }

  // Settles all but groups that need a lender.
  bool settle(Pid group, GroupOrigin& origin) {
    using Kind = GroupOrigin::Kind;
    const TreeTask* leader = in_.wanted.find(group);
    const auto birth = std::ranges::find(births_, group, &Birth::pid);
    if (birth != births_.end() ? birth->begins_session : leader != nullptr && begins_session(*leader)) {
      origin.kind = Kind::session;
      return true;
    }
    if (birth == births_.end() && has_holder(group)) return true;
    if (leader == nullptr) return false;
    origin.kind = Kind::maker;
    origin.members.erase(group);
    if (!fates_.kept.contains(group)) return true;
    if (!can_act(in_, fates_, group)) {
      found_.blamed.emplace(group, fmt::format("cannot make group {} again", group.value));
    }
    if (leader->group != group) found_.origins[leader->group].members.insert(group);  // it comes back from there
    return true;
  }

  [[nodiscard]] bool has_holder(Pid group) const {
    const auto& members = in_.living.in_group(group);
    return std::ranges::any_of(members, [&](Pid pid) { return fates_.kept.contains(pid); }) ||
           std::ranges::find(in_.surroundings.groups, group, &model::OutsideGroup::group) !=
               in_.surroundings.groups.end();
  }

  void lend(Pid group) {
    const Pid session = in_.wanted.find(*found_.origins[group].members.begin())->session;
    found_.origins[group].kind = GroupOrigin::Kind::lender;
    if (group == session) {  // only the session's leader could make it, and its number is taken by the session
      for (const Pid member : in_.living.in_session(session)) {
        if (fates_.kept.contains(member)) {
          found_.blamed.emplace(member, fmt::format("in session {}, whose group must be made again", session.value));
        }
      }
    }
    const auto from = sources(in_, fates_, births_, session);
    if (from.empty() || found_.blamed.contains(group) || group.value <= 0) {
      if (found_.blamed.empty()) {
        found_.hopeless.emplace(*found_.origins[group].members.begin(),
                                fmt::format("no task is left that could make its group {} again", group.value));
      }
      return;
    }
    Birth birth{.pid = group, .temporary = true};
    birth.parent = Pid{from.front().who.number};
    birth.first_session = session;
    birth.exit_signal = 0;
    birth.caller = from.front().who;
    birth.when = from.front().when;
    found_.lenders.emplace(group, birth);
    found_.numbers.insert(group);
  }

  void move_out() {
    for (const Pid pid : fates_.kept) {
      const TreeTask& living = *in_.living.find(pid);
      if (!found_.numbers.contains(living.group) || living.group == pid) continue;
      const bool begins = fates_.begin_session.contains(pid);
      if (can_act(in_, fates_, pid) && !(begins && forks_before(pid))) {
        if (!begins) found_.moved_out.insert(pid);
      } else {
        found_.blamed.emplace(pid, fmt::format("in group {}, whose number must become free", living.group.value));
      }
    }
  }

  // Such a blank would be in the group as well.
  [[nodiscard]] bool forks_before(Pid pid) const {
    return std::ranges::any_of(
        births_, [&](const Birth& birth) { return birth.caller == task_actor(pid) && birth.when == When::before; });
  }

  const TreeInput& in_;
  const Fates& fates_;
  const std::vector<Birth>& births_;
  Groups found_;
};

}  // namespace

Groups find_groups(const TreeInput& input, const Fates& fates, const std::vector<Birth>& births) {
  return Search(input, fates, births).run();
}

}  // namespace relive::diff
