#include "diff/tree_order.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/graph/adjacency_list.hpp>
#include <boost/graph/topological_sort.hpp>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <queue>
#include <set>
#include <tuple>

namespace relive::diff {

using model::Pid;
using model::TreeTask;
using Kind = Stage::Kind;

namespace {

using Graph = boost::adjacency_list<boost::setS, boost::vecS, boost::bidirectionalS, Stage>;
using Vertex = boost::graph_traits<Graph>::vertex_descriptor;

class Builder {
 public:
  explicit Builder(const OrderInput& input)
      : in_(input.input), fates_(input.fates), births_(input.births), groups_(input.groups) {}

  Graph build(bool hold) && {
    stages();
    for (const Birth& birth : births_) fork(birth);
    for (const auto& [group, origin] : groups_.origins) join(group, origin, hold);
    for (const TreeTask& task : in_.living.forest().tasks) {
      if (!fates_.kept.contains(task.pid)) end(task);
    }
    for (const Pid pid : fates_.kept) kept(pid);
    flags();
    apply_uses();
    return graph_;
  }

 private:
  void add(Kind kind, Pid task, Pid group = {}) {
    index_[{kind, task}] = boost::add_vertex(Stage{.kind = kind, .task = task, .group = group}, graph_);
  }
  [[nodiscard]] std::optional<Vertex> find(Kind kind, Pid task) const {
    const auto found = index_.find({kind, task});
    return found == index_.end() ? std::nullopt : std::optional(found->second);
  }
  void before(std::optional<Vertex> first, std::optional<Vertex> second) {
    if (first && second && *first != *second) boost::add_edge(*first, *second, graph_);
  }
  void uses(std::optional<Vertex> stage, Pid actor) {
    if (stage) uses_.emplace_back(*stage, actor);
  }

  void stages() {
    for (const Birth& birth : births_) {
      born_.insert(birth.pid);
      parents_.emplace(birth.pid, birth.parent);
      add(Kind::fork, birth.pid);
      if (birth.begins_session) add(Kind::begin_session, birth.pid);
      of_task(birth.pid);
      if (birth.temporary) add(Kind::leave, birth.pid);
    }
    for (const Pid pid : fates_.kept) {
      if (groups_.moved_out.contains(pid)) add(Kind::move_out, pid);
      if (fates_.begin_session.contains(pid)) add(Kind::begin_session, pid);
      of_task(pid);
    }
    leaf_first([&](Pid pid) {
      if (!fates_.kept.contains(pid)) add(Kind::end, pid);
    });
    for (const TreeTask& task : in_.wanted.forest().tasks) {
      const TreeTask* living = fates_.kept.contains(task.pid) ? in_.living.find(task.pid) : nullptr;
      if (is_zombie(task) && (living == nullptr || !is_zombie(*living))) add(Kind::exit, task.pid);
    }
  }

  void of_task(Pid pid) {
    using Origin = GroupOrigin::Kind;
    const auto made = groups_.origins.find(pid);
    if (made != groups_.origins.end() && (made->second.kind == Origin::maker || made->second.kind == Origin::lender)) {
      add(Kind::make_group, pid);
    }
    const TreeTask* task = in_.wanted.find(pid);
    if (task == nullptr) return;
    const auto joined = groups_.origins.find(task->group);
    if (joined != groups_.origins.end() && joined->second.members.contains(pid)) {
      add(Kind::join_group, pid, task->group);
    }
    const bool now = !born_.contains(pid) && in_.living.find(pid)->child_subreaper;
    if (task->child_subreaper != now && !is_zombie(*task)) add(Kind::subreaper, pid);
  }

  template <class Function>
  void leaf_first(const Function& function) const {
    const std::function<void(Pid)> visit = [&](Pid pid) {
      for (const Pid child : in_.living.children(pid)) visit(child);
      function(pid);
    };
    for (const Pid outside : in_.living.outside_parents()) {
      for (const Pid root : in_.living.children(outside)) visit(root);
    }
  }

  void fork(const Birth& birth) {
    const auto stage = find(Kind::fork, birth.pid);
    before(find(Kind::fork, birth.parent), stage);
    if (!born_.contains(birth.parent)) released(stage, birth.parent);  // who waits for it, should it be undone
    if (birth.caller.kind == Actor::Kind::task) called_by(Pid{birth.caller.number}, birth);
    if (birth.route == Route::adoption && in_.wanted.has(birth.parent)) uses(stage, birth.parent);
    before(stage, find(Kind::begin_session, birth.pid));
    if (birth.temporary) {
      uses(find(Kind::leave, birth.pid), birth.parent);
      before(find(Kind::begin_session, birth.pid), find(Kind::leave, birth.pid));
    }
    if (birth.suspends) suspending_.emplace(birth.parent, *stage);
    free_number(birth.pid, stage);
  }

  void called_by(Pid caller, const Birth& birth) {
    const auto stage = find(Kind::fork, birth.pid);
    const auto session = find(Kind::begin_session, caller);
    uses(stage, caller);
    if (birth.when == When::before) before(stage, session);
    if (birth.when == When::after) before(session, stage);
    if (!born_.contains(caller)) before(find(Kind::move_out, caller), stage);  // a blank would keep the group's number
    if (birth.route != Route::adoption) return;
    Pid kept = caller;
    while (born_.contains(kept) && kept != birth.parent) kept = parents_.at(kept);
    if (kept == birth.parent) return;
    for (const Pid above : in_.living.ancestors(kept)) {  // as it dies, its children may go elsewhere
      if (above == birth.parent) break;
      before(stage, find(Kind::end, above));
    }
  }

  // Whoever has the number as pid, group or session goes first.
  void free_number(Pid number, std::optional<Vertex> stage) {
    for (const TreeTask& task : in_.living.forest().tasks) {
      if (task.pid != number && task.group != number && task.session != number) continue;
      before(find(Kind::end, task.pid), stage);
      if (born_.contains(task.pid)) continue;
      before(find(Kind::move_out, task.pid), stage);
      before(find(Kind::begin_session, task.pid), stage);
    }
  }

  void join(Pid group, const GroupOrigin& origin, bool hold) {
    using Origin = GroupOrigin::Kind;
    const auto made = origin.kind == Origin::session   ? find(Kind::begin_session, group)
                      : origin.kind == Origin::goes_on ? std::nullopt
                                                       : find(Kind::make_group, group);
    if (origin.kind == Origin::maker || origin.kind == Origin::lender) {
      before(find(Kind::fork, group), made);
      before(find(Kind::move_out, group), made);
      uses(made, group);
    }
    for (const Pid member : origin.members) {
      const auto stage = find(Kind::join_group, member);
      uses(stage, member);
      before(find(Kind::move_out, member), stage);
      before(find(Kind::make_group, member), stage);
      before(made, stage);
      before(stage, find(Kind::leave, group));
    }
    if (made) maker_leaves(group, origin, *made, hold);
    if (origin.kind == Origin::goes_on) keep_up(group, origin, hold);
  }

  // A maker that belongs to another group leaves when somebody is there who stays.
  void maker_leaves(Pid group, const GroupOrigin& origin, Vertex made, bool hold) {
    const auto leave = find(Kind::join_group, group);
    if (!leave || origin.members.empty()) return;
    const auto stays = std::ranges::find_if(origin.members, [&](Pid pid) { return !find(Kind::make_group, pid); });
    if (stays == origin.members.end() && hold) {
      hold_up(group, in_.wanted.find(group)->session, origin, {*leave});
      return before(made, find(Kind::hold_group, group));
    }
    before(find(Kind::join_group, stays == origin.members.end() ? *origin.members.begin() : *stays), leave);
  }

  // A group whose present members all leave must not be empty in between.
  void keep_up(Pid group, const GroupOrigin& origin, bool hold) {
    const auto& outside = in_.surroundings.groups;
    if (std::ranges::find(outside, group, &model::OutsideGroup::group) != outside.end()) return;
    std::vector<Vertex> leaving;
    for (const Pid member : in_.living.in_group(group)) {
      if (!fates_.kept.contains(member)) continue;
      const auto leave = first_leave(member, group);
      if (!leave) return;  // one stays
      leaving.push_back(*leave);
    }
    const auto is_born = [&](Pid pid) { return born_.contains(pid); };
    const auto blank = std::ranges::find_if(origin.members, is_born);
    if (blank == origin.members.end() && hold) {
      return hold_up(group, in_.living.find(in_.living.in_group(group).front())->session, origin, leaving);
    }
    const Pid first = blank == origin.members.end() ? *origin.members.begin() : *blank;
    for (const Vertex leave : leaving) before(find(Kind::join_group, first), leave);
  }

  [[nodiscard]] std::optional<Vertex> first_leave(Pid member, Pid group) const {
    for (const Kind kind : {Kind::move_out, Kind::begin_session, Kind::make_group, Kind::join_group}) {
      const auto stage = find(kind, member);
      if (stage && !(kind == Kind::join_group && graph_[*stage].group == group)) return stage;
    }
    return std::nullopt;
  }

  void hold_up(Pid group, Pid session, const GroupOrigin& origin, const std::vector<Vertex>& leaving) {
    const auto from = sources(in_, fates_, births_, session);
    if (from.empty()) return;
    add(Kind::hold_group, group);
    add(Kind::let_go, group);
    const auto hold = find(Kind::hold_group, group);
    const auto release = find(Kind::let_go, group);
    for (const auto stage : {hold, release}) {
      graph_[*stage].host = from.front().who;
      uses(stage, Pid{from.front().who.number});
    }
    before(hold, release);
    if (from.front().when == When::before) before(hold, find(Kind::begin_session, Pid{from.front().who.number}));
    if (from.front().when == When::after) before(find(Kind::begin_session, Pid{from.front().who.number}), hold);
    for (const Vertex leave : leaving) before(hold, leave);
    for (const Pid member : origin.members) before(find(Kind::join_group, member), release);
  }

  void end(const TreeTask& task) {
    const auto stage = find(Kind::end, task.pid);
    for (const Pid child : in_.living.children(task.pid)) before(find(Kind::end, child), stage);
    if (in_.living.has(task.parent)) uses(stage, task.parent);
    adopt(task.pid, stage);
  }

  void adopt(Pid dying, std::optional<Vertex> stage) {
    for (const Pid child : in_.living.children(dying)) {
      const auto adopter = fates_.adoptions.find(child);
      if (adopter != fates_.adoptions.end() && in_.living.has(adopter->second)) uses(stage, adopter->second);
    }
  }

  void kept(Pid pid) {
    for (const Kind kind : {Kind::move_out, Kind::begin_session}) uses(find(kind, pid), pid);
    flag(pid);
    const auto exit = find(Kind::exit, pid);
    if (!exit) return;
    for (const Pid child : in_.living.children(pid)) before(find(Kind::end, child), exit);
    adopt(pid, exit);
  }

  void flags() {
    for (const Birth& birth : births_) {
      uses(find(Kind::begin_session, birth.pid), birth.pid);
      flag(birth.pid);
      before(find(Kind::fork, birth.pid), find(Kind::exit, birth.pid));
    }
  }

  // Last, since adoptions may need the flags otherwise; but a task in vfork(2) cannot wait for that.
  void flag(Pid pid) {
    const auto stage = find(Kind::subreaper, pid);
    uses(stage, pid);
    if (suspending_.contains(pid)) return;
    for (const Birth& birth : births_) {
      if (birth.route == Route::adoption) before(find(Kind::fork, birth.pid), stage);
    }
  }

  // After the end of the vfork child that the living task waits for.
  void released(std::optional<Vertex> stage, Pid pid) {
    const TreeTask* living = in_.living.find(pid);
    if (living == nullptr || living->suspended_by.value == 0) return;
    before(find(Kind::end, living->suspended_by), stage);
    if (!born_.contains(living->suspended_by)) before(find(Kind::exit, living->suspended_by), stage);
  }

  // An actor acts after its birth, before its end, and not while it waits for a vfork child.
  void apply_uses() {
    for (const auto& [stage, actor] : uses_) {
      // Of a task that is re-created, the old one waits for children that end, the new one does all else.
      const bool old = graph_[stage].kind == Kind::end || !born_.contains(actor);
      if (!old) before(find(Kind::fork, actor), stage);
      if (old) {
        before(stage, find(Kind::end, actor));
        released(stage, actor);
      }
      if (old && born_.contains(actor)) continue;
      before(stage, find(Kind::exit, actor));
      before(stage, find(Kind::leave, actor));
      if (const auto suspending = suspending_.find(actor); suspending != suspending_.end()) {
        before(stage, suspending->second);
      }
    }
  }

  const TreeInput& in_;
  const Fates& fates_;
  const std::vector<Birth>& births_;
  const Groups& groups_;
  Graph graph_;
  std::map<std::pair<Kind, Pid>, Vertex> index_;
  std::set<Pid> born_;
  std::map<Pid, Pid> parents_;        // of those
  std::map<Pid, Vertex> suspending_;  // the fork after which its parent acts no more
  std::vector<std::pair<Vertex, Pid>> uses_;
};

// Which stages have a fork after them: what they take back comes early, all else late.
std::vector<bool> lead_to_fork(const Graph& graph, const std::vector<Vertex>& leaves_first) {
  std::vector<bool> leads(boost::num_vertices(graph), false);
  for (const Vertex vertex : leaves_first) {
    const auto [first, last] = boost::adjacent_vertices(vertex, graph);
    leads[vertex] =
        std::any_of(first, last, [&](Vertex next) { return leads[next] || graph[next].kind == Kind::fork; });
  }
  return leads;
}

int rank(const OrderInput& input, const Stage& stage, bool leads_to_fork) {
  constexpr int kBlank = 0;
  const bool living = input.fates.kept.contains(stage.task);
  switch (stage.kind) {
    case Kind::fork: {
      const auto birth = std::ranges::find(input.births, stage.task, &Birth::pid);
      if (birth->suspends && input.fates.kept.contains(birth->parent)) return leads_to_fork ? 1 : 3;
      return birth->route == Route::adoption ? 1 : kBlank;
    }
    case Kind::hold_group:
    case Kind::let_go:
    case Kind::leave:
      return kBlank;
    case Kind::make_group:
    case Kind::join_group:
    case Kind::move_out:
    case Kind::subreaper:
      if (!living) return kBlank;
      return leads_to_fork ? 1 : 3;
    case Kind::begin_session:
      if (!living) return kBlank;
      return leads_to_fork ? 2 : 4;
    case Kind::end:
    case Kind::exit:
      return leads_to_fork ? 2 : 4;
  }
  return kBlank;
}

// The order of stages that wait for nothing, the lowest rank first.
Order sorted(const OrderInput& input, const Graph& graph, const std::vector<Vertex>& leaves_first) {
  const auto leads = lead_to_fork(graph, leaves_first);
  std::vector<std::size_t> waiting(boost::num_vertices(graph));
  using Entry = std::pair<int, Vertex>;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> ready;
  const auto enqueue = [&](Vertex vertex) { ready.emplace(rank(input, graph[vertex], leads[vertex]), vertex); };
  for (Vertex vertex = 0; vertex < waiting.size(); ++vertex) {
    waiting[vertex] = boost::in_degree(vertex, graph);
    if (waiting[vertex] == 0) enqueue(vertex);
  }
  Order order;
  std::vector<std::size_t> place(waiting.size());
  while (!ready.empty()) {
    const Vertex vertex = ready.top().second;
    ready.pop();
    place[vertex] = order.stages.size();
    order.stages.push_back(graph[vertex]);
    const auto [first, last] = boost::adjacent_vertices(vertex, graph);
    std::for_each(first, last, [&](Vertex next) {
      if (--waiting[next] == 0) enqueue(next);
    });
  }
  const auto [first, last] = boost::edges(graph);
  std::for_each(first, last, [&](const auto& edge) {
    order.before.emplace_back(place[boost::source(edge, graph)], place[boost::target(edge, graph)]);
  });
  std::ranges::sort(order.before);
  return order;
}

// What is left when everything has been taken away that waits for nothing, or that nothing waits for.
std::vector<std::string> circle_of(Graph& graph) {
  std::set<Vertex> left;
  for (Vertex vertex = 0; vertex < boost::num_vertices(graph); ++vertex) left.insert(vertex);
  for (bool changed = true; changed;) {
    changed = false;
    for (const Vertex vertex : std::set(left)) {
      if (boost::in_degree(vertex, graph) != 0 && boost::out_degree(vertex, graph) != 0) continue;
      boost::clear_vertex(vertex, graph);
      changed = left.erase(vertex) != 0 || changed;
    }
  }
  std::vector<std::string> found;
  for (const Vertex vertex : left) found.push_back(text(graph[vertex]));
  return found;
}

}  // namespace

std::string text(const Stage& stage) {
  const auto with = [&](const char* what) { return fmt::format("{} {}", what, stage.task.value); };
  switch (stage.kind) {
    case Kind::fork:
      return with("fork");
    case Kind::begin_session:
      return with("session");
    case Kind::make_group:
      return with("make group");
    case Kind::move_out:
      return with("move out");
    case Kind::join_group:
      return fmt::format("{} into group {}", stage.task.value, stage.group.value);
    case Kind::hold_group:
      return with("hold group");
    case Kind::let_go:
      return with("let go of group");
    case Kind::subreaper:
      return with("subreaper");
    case Kind::leave:
      return with("end lender");
    case Kind::end:
      return with("end");
    case Kind::exit:
      return with("exit");
  }
  return "?";
}

Order find_order(const OrderInput& input, bool hold) {
  Graph graph = Builder(input).build(hold);
  std::vector<Vertex> leaves_first;
  try {
    boost::topological_sort(graph, std::back_inserter(leaves_first));
  } catch (const boost::not_a_dag&) {
    return {.stages = {}, .before = {}, .circle = circle_of(graph)};
  }
  return sorted(input, graph, leaves_first);
}

}  // namespace relive::diff
