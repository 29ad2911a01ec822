#include "diff/descriptors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <map>
#include <span>

#include "base/overloaded.h"
#include "diff/homes.h"
#include "diff/message_queue.h"
#include "diff/named_pipes.h"
#include "diff/numbers.h"
#include "diff/self_contained.h"
#include "diff/sockets.h"
#include "diff/table.h"
#include "diff/table_locks.h"
#include "diff/terminals.h"

namespace relive::diff {

namespace {

using model::DescriptorTable;
using model::DeviceFile;
using model::EpollEntry;
using model::EpollSet;
using model::OpenFile;
using model::PipeEnd;
using model::RegularFile;
using model::RemoteFd;
using model::Socket;

constexpr std::uint32_t kPrivateEvents = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE;
constexpr std::uint32_t kAlwaysEvents = EPOLLERR | EPOLLHUP;

// A one-shot entry that has fired reports nothing until it is armed again.
bool fired(std::uint32_t events) {
  return (events & ~(kPrivateEvents | kAlwaysEvents)) == 0 && (events & EPOLLONESHOT) != 0;
}
bool same_events(std::uint32_t a, std::uint32_t b) { return a == b || (fired(a) && fired(b)); }

bool same_bytes(const PipeEnd& a, const PipeEnd& b) { return a.bytes == b.bytes && a.pieces == b.pieces; }

class Planner {
 public:
  Planner(const DescriptorTable& wanted, const DescriptorTable& living, std::span<const model::Pid> tasks)
      : wanted_(wanted, tasks),
        living_(living, tasks),
        tables_(tasks.empty() ? std::numeric_limits<int>::max() : static_cast<int>(tasks.size())),
        matches_{.living_of = std::vector<std::optional<std::size_t>>(wanted_.files()),
                 .wanted_of = std::vector<std::optional<std::size_t>>(living_.files())} {}

  DescriptorPlan plan() {
    plan_.homes = homes_of(wanted_);
    plan_.tasks.assign(wanted_.tasks().begin(), wanted_.tasks().end());
    wanted_.set_homes(plan_.homes);
    match_identical();
    match_by_number();
    match_sockets_by_address();
    unmatch_what_cannot_be_put_right();
    make_the_missing();
    place();
    put_right();
    put_contents();
    lock();
    watch();
    describe();
    assemble();
    return std::move(plan_);
  }

 private:
  // ------------------------------------------------------------------ which living file is which wanted one
  void match(std::size_t wanted, std::size_t living) {
    matches_.living_of[wanted] = living;
    matches_.wanted_of[living] = wanted;
  }
  void unmatch(std::size_t wanted) {
    if (!matches_.living_of[wanted]) return;
    matches_.wanted_of[*matches_.living_of[wanted]].reset();
    matches_.living_of[wanted].reset();
  }

  // Could the living object become the wanted one in place?
  [[nodiscard]] static bool compatible(const OpenFile& wanted, const OpenFile& living) {
    if (wanted.object.index() != living.object.index()) return false;
    if (((wanted.status_flags ^ living.status_flags) & O_ACCMODE) != 0) return false;
    if (const auto* const pipe = std::get_if<PipeEnd>(&wanted.object)) {
      return pipe->write_end == std::get<PipeEnd>(living.object).write_end;
    }
    if (const auto* const socket = std::get_if<Socket>(&wanted.object)) {
      return can_become(*socket, std::get<Socket>(living.object));
    }
    return std::visit(
        [&]<class T>(const T& object) {
          if constexpr (model::SelfContained<T> || std::is_same_v<T, model::Terminal> ||
                        std::is_same_v<T, model::NamedPipe>)
            return can_become(object, std::get<T>(living.object));
          return !std::is_same_v<T, model::UnhandledFile>;
        },
        wanted.object);
  }

  void match_identical() {
    for (std::size_t index = 0; index < living_.files(); ++index) {
      const auto same = living_.file(index).same_as;
      if (!same || *same >= wanted_.files() || matches_.living_of[*same]) continue;
      // In flight only (model::DescriptorTable): there is no number to take it from.
      if (living_.numbers(index).empty() && !wanted_.numbers(*same).empty()) continue;
      if (compatible(wanted_.file(*same), living_.file(index))) match(*same, index);
    }
  }

  // Objects whose identity nobody outside the task can tell.
  [[nodiscard]] bool adoptable(std::size_t wanted, std::size_t living) const {
    if (matches_.wanted_of[living] || !compatible(wanted_.file(wanted), living_.file(living))) return false;
    return std::visit(Overloaded{
                          [](const RegularFile&) { return false; },
                          [](const DeviceFile&) { return false; },
                          [](const model::Terminal&) { return false; },
                          [](const model::MessageQueue&) { return false; },
                          [](const model::NamedPipe&) { return false; },
                          [&](const PipeEnd& pipe) { return !pipe.outside && !living_.as<PipeEnd>(living)->outside; },
                          [](const model::SelfContained auto&) { return true; },
                          [](const EpollSet&) { return true; },
                          [&](const Socket& socket) { return can_stand_for(socket, *living_.as<Socket>(living)); },
                          [](const model::UnhandledFile&) { return false; },
                      },
                      wanted_.file(wanted).object);
  }
  void match_by_number() {
    for (const model::Descriptor& descriptor : wanted_.descriptors()) {
      if (matches_.living_of[descriptor.open_file]) continue;
      const model::Descriptor* const there = living_.at(descriptor.fd);
      if (there != nullptr && adoptable(descriptor.open_file, there->open_file))
        match(descriptor.open_file, there->open_file);
    }
  }

  void match_sockets_by_address() {
    for (std::size_t wanted = 0; wanted < wanted_.files(); ++wanted) {
      const auto* const socket = wanted_.as<Socket>(wanted);
      if (socket == nullptr || !found_by_address(*socket)) continue;
      for (std::size_t living = 0; living < living_.files() && !matches_.living_of[wanted]; ++living) {
        if (adoptable(wanted, living)) match(wanted, living);
      }
    }
  }

  void unmatch_what_cannot_be_put_right() {
    for (std::size_t wanted = 0; wanted < wanted_.files(); ++wanted) {
      if (!matches_.living_of[wanted]) continue;
      const std::size_t living = *matches_.living_of[wanted];
      if (wanted_.as<PipeEnd>(wanted) != nullptr) {
        if (!pipe_can_stay(wanted)) unmatch_pipe(wanted_.as<PipeEnd>(wanted)->identity);
      } else if (const auto* const named = wanted_.as<model::NamedPipe>(wanted)) {
        if (!can_stay(*named, *living_.as<model::NamedPipe>(living))) unmatch(wanted);
      }
    }
    while (unmatch_a_socket()) {
    }
    while (unmatch_an_epoll_set()) {
    }
  }

  // A set may watch another one.
  bool unmatch_an_epoll_set() {
    for (std::size_t wanted = 0; wanted < wanted_.files(); ++wanted) {
      const auto* const set = wanted_.as<EpollSet>(wanted);
      if (set == nullptr || !matches_.living_of[wanted]) continue;
      if (epoll_set_can_stay(*set, *living_.as<EpollSet>(*matches_.living_of[wanted]))) continue;
      unmatch(wanted);
      return true;
    }
    return false;
  }
  // Nothing is added to a living set, and nothing taken out of it, by a number that leads elsewhere; what only a task
  // that ends could take out stays in it.
  [[nodiscard]] bool epoll_set_can_stay(const EpollSet& wanted, const EpollSet& living) const {
    if (std::ranges::any_of(living.entries, [&](const EpollEntry& entry) { return is_surplus(entry.fd); }))
      return false;
    const auto is_same = [&](const EpollEntry& a, const EpollEntry& b) {
      return a.stale && b.stale && a.fd.value == b.fd.value && a.data == b.data && same_events(a.events, b.events) &&
             (a.events & EPOLLET) == 0 && a.file && matches_.living_of[*a.file] == b.file;
    };
    return std::ranges::all_of(wanted.entries,
                               [&](const EpollEntry& a) {
                                 return !a.stale || std::ranges::any_of(living.entries, [&](const EpollEntry& b) {
                                   return is_same(a, b);
                                 });
                               }) &&
           std::ranges::all_of(living.entries, [&](const EpollEntry& b) {
             return !b.stale || std::ranges::any_of(wanted.entries, [&](const EpollEntry& a) { return is_same(a, b); });
           });
  }

  // One that cannot stay takes its peer along, and may so be the reason that another one cannot.
  bool unmatch_a_socket() {
    for (std::size_t wanted = 0; wanted < wanted_.files(); ++wanted) {
      const auto* const socket = wanted_.as<Socket>(wanted);
      if (socket == nullptr || !matches_.living_of[wanted]) continue;
      if (can_stay(*socket, *living_.as<Socket>(*matches_.living_of[wanted]), wanted_, living_, matches_)) continue;
      unmatch(wanted);
      return true;
    }
    return false;
  }

  [[nodiscard]] bool pipe_can_stay(std::size_t index) const {
    const auto& pipe = *wanted_.as<PipeEnd>(index);
    if (pipe.outside) return true;
    const model::FileIdentity living_identity = living_.as<PipeEnd>(*matches_.living_of[index])->identity;
    bool partner = false;
    for (const std::size_t other : wanted_.ends_of(pipe.identity)) {
      const auto* const end = wanted_.as<PipeEnd>(other);
      if (!matches_.living_of[other] || living_.as<PipeEnd>(*matches_.living_of[other])->identity != living_identity)
        return false;
      partner = partner || end->write_end != pipe.write_end;
    }
    const auto& living = *living_.as<PipeEnd>(*matches_.living_of[index]);
    if (pipe.capacity != living.capacity) return false;
    // Without a write end in the task nothing can be put into it; with one outside it was not `outside` at the
    // snapshot.
    return partner || (same_bytes(pipe, living) && !living.outside && !has_partner(living));
  }
  [[nodiscard]] bool has_partner(const PipeEnd& pipe) const {
    return std::ranges::any_of(living_.ends_of(pipe.identity), [&](std::size_t other) {
      return living_.as<PipeEnd>(other)->write_end != pipe.write_end;
    });
  }
  void unmatch_pipe(model::FileIdentity identity) {
    for (const std::size_t other : wanted_.ends_of(identity)) unmatch(other);
  }

  // ------------------------------------------------------------------ what has no living file
  [[nodiscard]] std::string name(std::size_t wanted) const { return wanted_.name(wanted); }
  void refuse(std::size_t wanted, std::string reason, std::string hint = {}) {
    plan_.refusals.push_back({.object = name(wanted), .reason = std::move(reason), .hint = std::move(hint)});
  }

  void make_the_missing() {
    for (std::size_t wanted = 0; wanted < wanted_.files(); ++wanted) {
      if (matches_.living_of[wanted] || wanted_.numbers(wanted).empty()) continue;
      const OpenFile& file = wanted_.file(wanted);
      std::visit(Overloaded{
                     [&](const RegularFile&) { take_held(wanted); },
                     [&](const DeviceFile&) { take_held(wanted); },
                     [&](const model::MessageQueue&) { take_held(wanted); },
                     [&](const model::Terminal& terminal) { open_terminal(wanted, terminal); },
                     [&](const PipeEnd& pipe) { make_pipe(wanted, pipe); },
                     [&](const model::NamedPipe&) { made_.emplace_back(OpenNamedPipe{wanted}); },
                     [&](const model::SelfContained auto& object) { make_self_contained(wanted, cannot_make(object)); },
                     [&](const EpollSet&) { made_.emplace_back(MakeEpollSet{wanted}); },
                     [&](const Socket&) { take(wanted, make_socket(wanted, wanted_, living_, matches_)); },
                     [&](const model::UnhandledFile& other) {
                       refuse(wanted, fmt::format("this release does not roll back a {}", other.what));
                     },
                 },
                 file.object);
    }
  }

  void take_held(std::size_t wanted) {
    if (model::may_be_held(wanted_.file(wanted))) {
      made_.emplace_back(TakeHeld{wanted});
    } else if (model::is_opened_anew(wanted_.file(wanted))) {
      made_.emplace_back(OpenAnew{wanted});
    } else {
      refuse(wanted, "closed since the snapshot, and nobody may hold what an epoll set watches");
    }
  }

  void open_terminal(std::size_t wanted, const model::Terminal& terminal) {
    if (CannotMake cannot = cannot_make(terminal); !cannot.reason.empty())
      refuse(wanted, "closed since the snapshot, and " + cannot.reason, std::move(cannot.hint));
    else
      made_.emplace_back(OpenTerminal{wanted});
  }

  void make_self_contained(std::size_t wanted, CannotMake cannot) {
    if (cannot.reason.empty())
      made_.emplace_back(MakeSelfContained{wanted, model::words_of(wanted_.file(wanted).object).kind});
    else
      refuse(wanted, "closed since the snapshot, and " + cannot.reason, std::move(cannot.hint));
  }

  void make_pipe(std::size_t wanted, const PipeEnd& pipe) {
    if (pipe.outside) {
      refuse(wanted,
             fmt::format("closed since the snapshot; the other end belongs to {}, and a pipe cannot be joined again",
                         wanted_.tasks().size() < 2 ? "another task" : "a task outside the tree"));
      return;
    }
    MakePipe make;
    for (const std::size_t other : wanted_.ends_of(pipe.identity)) {
      const auto* const end = wanted_.as<PipeEnd>(other);
      if (other < wanted) return;  // made with that one
      auto& slot = end->write_end ? make.write_end : make.read_end;
      if (slot) {
        refuse(wanted, "gone since the snapshot, and more than one open file description led to one end of it");
        return;
      }
      slot = other;
    }
    made_.emplace_back(make);
  }

  void take(std::size_t wanted, SocketPart part) {
    if (!part.refusal.empty()) refuse(wanted, std::move(part.refusal));
    std::ranges::move(part.made, std::back_inserter(made_));
    std::ranges::move(part.joined, std::back_inserter(joined_));
    std::ranges::move(part.rights, std::back_inserter(rights_));
    std::ranges::move(part.contents, std::back_inserter(contents_));
    std::ranges::move(part.notes, std::back_inserter(plan_.notes));
    std::ranges::move(part.refusals, std::back_inserter(plan_.refusals));
  }

  // ------------------------------------------------------------------ numbers
  // Does this number name the right file already?
  [[nodiscard]] bool stays(const model::Descriptor& descriptor) const {
    const model::Descriptor* const there = living_.at(descriptor.fd);
    return there != nullptr && matches_.living_of[descriptor.open_file] == there->open_file;
  }

  // Of a task that is going to end.
  [[nodiscard]] bool is_surplus(RemoteFd fd) const { return fd.table >= tables_; }

  void place() {
    for (const model::Descriptor& there : living_.descriptors()) {
      if (wanted_.at(there.fd) == nullptr && !is_surplus(there.fd)) closes_.emplace_back(CloseDescriptor{there.fd});
    }
    for (std::size_t wanted = 0; wanted < wanted_.files(); ++wanted) {
      const std::span<const RemoteFd> numbers = wanted_.numbers(wanted);
      for (auto begin = numbers.begin(); begin != numbers.end();) {
        const auto end = std::find_if(begin, numbers.end(), [&](RemoteFd fd) { return fd.table != begin->table; });
        place_in_table(wanted, std::span(begin, end));
        begin = end;
      }
    }
  }

  // `numbers`: all those of the file in one table.
  void place_in_table(std::size_t wanted, std::span<const RemoteFd> numbers) {
    std::optional<RemoteFd> anchor;  // a number that keeps the file all along
    for (const RemoteFd fd : numbers) {
      if (!anchor && stays(*wanted_.at(fd))) anchor = fd;
    }
    bool spare = false;
    for (const RemoteFd fd : numbers) {
      const model::Descriptor& descriptor = *wanted_.at(fd);
      if (stays(descriptor)) {
        if (descriptor.close_on_exec != living_.at(fd)->close_on_exec)
          places_.emplace_back(SetCloseOnExec{fd, descriptor.close_on_exec});
        continue;
      }
      spare = spare || !anchor;
      places_.emplace_back(Place{wanted, anchor, fd, descriptor.close_on_exec});
    }
    if (spare) need_spare(wanted, numbers.front().table);
  }

  // The table gets a spare number of the file, if it has none yet.
  void need_spare(std::size_t wanted, int table) {
    if (!spares_.emplace(wanted, table).second) return;
    const auto& living = matches_.living_of[wanted];
    if (!living) {  // it is made at home
      if (table != wanted_.home(wanted)) imports_.emplace_back(Import{wanted, table, std::nullopt});
    } else if (const auto there = living_.number_in(*living, table)) {
      made_.emplace_back(TakeLiving{wanted, *there});
    } else {
      imports_.emplace_back(Import{wanted, table, living_.numbers(*living).front()});
    }
  }
  // Of an operation: what it does with spare numbers has them.
  void need_spares(const DescriptorOperation& operation) {
    for_each_number(operation, [&](RemoteFd fd) {
      if (const auto file = spare_file(fd)) need_spare(*file, fd.table);
    });
    const auto* const refill = std::get_if<RefillSocket>(&operation);
    if (refill == nullptr) return;
    const int home = wanted_.home(refill->file);
    for (const auto& sender : refill->senders)
      if (sender && !wanted_.number_in(*sender, home)) need_spare(*sender, home);
  }

  // ------------------------------------------------------------------ what stands behind the numbers
  void put_right() {
    for (std::size_t wanted = 0; wanted < wanted_.files(); ++wanted) {
      if (wanted_.numbers(wanted).empty()) continue;
      const OpenFile& file = wanted_.file(wanted);
      const RemoteFd fd = wanted_.at_home(wanted);
      if (matches_.living_of[wanted]) {
        put_right_living(wanted, file, living_.file(*matches_.living_of[wanted]), fd);
      } else if ((file.status_flags & O_PATH) == 0) {
        // A held one: what became of it before it was closed is not known. A new one: it has the flags of a new one.
        rights_.emplace_back(SetStatusFlags{fd, file.status_flags});
        if (model::may_be_held(file) || file.owner != 0 || file.owner_signal != 0) {
          rights_.emplace_back(SetOwner{fd, file.owner_type, file.owner, file.owner_signal});
        }
        if (const auto position = position_of(file)) rights_.emplace_back(Seek{fd, *position});
      }
      if (std::holds_alternative<model::NamedPipe>(file.object)) put_right_named_pipe(wanted);
    }
  }

  [[nodiscard]] static std::optional<std::int64_t> position_of(const OpenFile& file) {
    if (const auto* const regular = std::get_if<RegularFile>(&file.object)) return regular->position;
    if (const auto* const device = std::get_if<DeviceFile>(&file.object)) return device->position;
    if (const auto* const queue = std::get_if<model::MessageQueue>(&file.object)) return queue->position;
    return std::nullopt;
  }

  void put_right_living(std::size_t wanted, const OpenFile& file, const OpenFile& living, RemoteFd fd) {
    if (((file.status_flags ^ living.status_flags) & kChangeableFlags) != 0)
      rights_.emplace_back(SetStatusFlags{fd, file.status_flags});
    if (file.owner != living.owner || file.owner_type != living.owner_type ||
        file.owner_signal != living.owner_signal) {
      rights_.emplace_back(SetOwner{fd, file.owner_type, file.owner, file.owner_signal});
    }
    if (position_of(file) != position_of(living)) rights_.emplace_back(Seek{fd, *position_of(file)});
    if (const auto* const terminal = std::get_if<model::Terminal>(&file.object)) {
      put_right_terminal(wanted, *terminal, std::get<model::Terminal>(living.object), fd);
    } else if (must_put_right_object(file, living)) {
      // Only the task that is told of messages can take that back; its end does so, too.
      if (const auto* const queue = std::get_if<model::MessageQueue>(&living.object); queue != nullptr) {
        fd = wanted_.number_at(wanted, queue->notified);
        if (is_surplus(fd)) return;
      }
      contents_.emplace_back(PutRight{wanted, *matches_.living_of[wanted], fd, model::words_of(file.object).kind});
    } else if (const auto* const pipe = std::get_if<PipeEnd>(&file.object)) {
      if (!pipe->write_end && !pipe->outside && !same_bytes(*pipe, std::get<PipeEnd>(living.object)))
        refill(wanted, *pipe, fd);
    } else if (wanted_.as<Socket>(wanted) != nullptr) {
      take(wanted, put_right_socket(wanted, wanted_, living_, matches_));
    }
  }

  void put_right_named_pipe(std::size_t wanted) {
    if (const auto refill = refill_named_pipe(wanted, wanted_, living_, matches_)) contents_.emplace_back(*refill);
    if (const std::string text = note(wanted, wanted_, living_, matches_); !text.empty())
      plan_.notes.push_back(name(wanted) + ": " + text);
  }

  void put_right_terminal(std::size_t wanted, const model::Terminal& terminal, const model::Terminal& living,
                          RemoteFd fd) {
    if (!terminal.hung_up && living.hung_up)
      plan_.notes.push_back(name(wanted) + ": the terminal has hung up since the snapshot and cannot come back");
    if (CannotMake cannot = cannot_put_right(terminal, living); !cannot.reason.empty())
      refuse(wanted, std::move(cannot.reason), std::move(cannot.hint));
    if (changes(terminal, living).empty() && !always_put_right(terminal)) return;
    // Masters last: what is done to the slave leaves status bytes there.
    (terminal.master ? contents_ : rights_)
        .emplace_back(
            PutRight{wanted, *matches_.living_of[wanted], fd, model::words_of(wanted_.file(wanted).object).kind});
  }

  // Objects whose descriptors stand for something that is there whatever the task does.
  template <class T>
  static constexpr bool kNamed = std::is_same_v<T, model::Terminal> || std::is_same_v<T, model::MessageQueue> ||
                                 std::is_same_v<T, model::NamedPipe>;

  // Of self-contained and named objects.
  [[nodiscard]] static std::vector<std::string> changes_of(const OpenFile& wanted, const OpenFile& living) {
    return std::visit(
        [&]<class T>(const T& object) -> std::vector<std::string> {
          if constexpr (model::SelfContained<T> || kNamed<T>) return changes(object, std::get<T>(living.object));
          return {};
        },
        wanted.object);
  }

  [[nodiscard]] static bool must_put_right_object(const OpenFile& wanted, const OpenFile& living) {
    return std::visit(
        [&]<class T>(const T& object) {
          if constexpr (model::SelfContained<T>) return must_put_right(object, std::get<T>(living.object));
          if constexpr (std::is_same_v<T, model::MessageQueue>)
            return !changes(object, std::get<T>(living.object)).empty();
          return false;
        },
        wanted.object);
  }

  // One refill a pipe, however many descriptions read it.
  void refill(std::size_t wanted, const PipeEnd& pipe, RemoteFd fd) {
    const auto ends = wanted_.ends_of(pipe.identity);
    const auto is_writer = [&](std::size_t index) { return wanted_.as<PipeEnd>(index)->write_end; };
    const auto writer = std::ranges::find_if(ends, is_writer);
    if (writer == ends.end() || *std::ranges::find_if_not(ends, is_writer) != wanted) return;
    contents_.emplace_back(RefillPipe{wanted, fd, wanted_.at_home(*writer), wanted_.file(wanted).status_flags});
  }

  // ------------------------------------------------------------------ memfds
  void put_contents() {
    for (std::size_t wanted = 0; wanted < wanted_.files(); ++wanted) {
      const auto* const file = wanted_.as<RegularFile>(wanted);
      if (file == nullptr || !file->memory || wanted_.numbers(wanted).empty()) continue;
      const auto& living = matches_.living_of[wanted];
      if (!living) {  // what became of it is not known
        made_.emplace_back(PutContents{wanted, std::nullopt});
        continue;
      }
      const model::MemoryFile now = living_.as<RegularFile>(*living)->memory.value_or(model::MemoryFile{});
      if ((now.seals & ~file->memory->seals) != 0)
        refuse(wanted, "sealed since the snapshot, and seals cannot be taken off");
      else if (now.size != file->memory->size || now.digest != file->memory->digest)
        made_.emplace_back(PutContents{wanted, living_.numbers(*living).front()});
    }
  }

  // ------------------------------------------------------------------ locks
  void lock() {
    for (std::size_t wanted = 0; wanted < wanted_.files(); ++wanted) {
      if (!matches_.living_of[wanted]) continue;
      const auto& locks = wanted_.file(wanted).locks;
      if (std::ranges::any_of(living_.file(*matches_.living_of[wanted]).locks, &model::FileLock::breaking) &&
          std::ranges::any_of(locks, [](const auto& one) { return one.kind == model::LockKind::lease; }))
        refuse(wanted, "somebody else is breaking its lease just now", "wait until that one has the file open");
    }
    for (std::size_t wanted = 0; wanted < wanted_.files(); ++wanted)
      if (!matches_.living_of[wanted] && !wanted_.numbers(wanted).empty())
        spares_.emplace(wanted, wanted_.home(wanted));
    for (const auto* const part : {&made_, &joined_, &rights_, &contents_})
      for (std::size_t at = 0; at < part->size(); ++at) need_spares(DescriptorOperation((*part)[at]));
    locks_ = plan_table_locks(wanted_, living_, matches_, spares_);
    plan_.record = locks_.record;
    plan_.last = locks_.last;
  }

  // ------------------------------------------------------------------ epoll sets
  void watch() {
    for (std::size_t wanted = 0; wanted < wanted_.files(); ++wanted) {
      const auto* const set = wanted_.as<EpollSet>(wanted);
      if (set == nullptr || wanted_.numbers(wanted).empty()) continue;
      static const EpollSet kEmpty;
      const EpollSet& living = matches_.living_of[wanted] ? *living_.as<EpollSet>(*matches_.living_of[wanted]) : kEmpty;
      std::vector<bool> kept(set->entries.size(), false);
      for (const EpollEntry& entry : living.entries) {
        if (entry.stale) continue;
        const auto same =
            std::ranges::find_if(set->entries, [&](const EpollEntry& other) { return is_same_entry(other, entry); });
        const bool exclusive =
            ((entry.events | (same == set->entries.end() ? 0U : same->events)) & EPOLLEXCLUSIVE) != 0;
        const bool equal =
            same != set->entries.end() && same_events(same->events, entry.events) && same->data == entry.data;
        if (same == set->entries.end() || (exclusive && !equal)) {
          // Where it is added again in another table, it goes there, right before.
          if (same == set->entries.end() || same->fd == entry.fd)
            unwatches_.emplace_back(Unwatch{living_number(wanted, entry.fd.table), entry.fd});
          else
            watches_.emplace_back(Unwatch{wanted_.number_at(wanted, same->fd.table), same->fd});
          continue;
        }
        kept[static_cast<std::size_t>(same - set->entries.begin())] = true;
        // An edge that came at the snapshot may have been taken since: arming anew reports what is ready now.
        const bool edge = (same->events & EPOLLET) != 0 && !exclusive && !fired(same->events);
        if (!equal || edge)
          watches_.emplace_back(
              Watch{wanted_.number_at(wanted, same->fd.table), same->fd, same->events, same->data, true});
      }
      for (std::size_t at = 0; at < set->entries.size(); ++at) {
        const EpollEntry& entry = set->entries[at];
        if (entry.stale)
          watch_by_old_number(wanted, entry);
        else if (!kept[at])
          watches_.emplace_back(
              Watch{wanted_.number_at(wanted, entry.fd.table), entry.fd, entry.events, entry.data, false});
      }
    }
  }

  void watch_by_old_number(std::size_t wanted, const EpollEntry& entry) {
    if (matches_.living_of[wanted]) return;
    if (!entry.file) {
      refuse(wanted, fmt::format("it watched a file by the number {} that nobody of the {} has any more",
                                 entry.fd.value, wanted_.scope()));
      return;
    }
    const auto& living = matches_.living_of[*entry.file];
    joined_.emplace_back(WatchByOldNumber{wanted, *entry.file,
                                          living ? std::optional(living_.numbers(*living).front()) : std::nullopt,
                                          entry.fd.value, entry.events, entry.data});
  }

  // Do both watch the same file by the same number? The table does not count: one that inherited the file, number and
  // all, leads to the same entry.
  [[nodiscard]] bool is_same_entry(const EpollEntry& wanted, const EpollEntry& living) const {
    if (wanted.fd.value != living.fd.value || wanted.stale || living.stale) return false;
    const model::Descriptor* const then = wanted_.at(wanted.fd);
    const model::Descriptor* const now = living_.at(living.fd);
    return then != nullptr && now != nullptr && matches_.living_of[then->open_file] == now->open_file;
  }
  // A number of the living file that this wanted one is, in the table if that has one.
  [[nodiscard]] RemoteFd living_number(std::size_t wanted, int table) const {
    const std::size_t living = *matches_.living_of[wanted];
    return living_.number_in(living, table).value_or(living_.numbers(living).front());
  }

  // ------------------------------------------------------------------ for people
  void differ(Sign sign, std::string object, std::string what) {
    plan_.differences.push_back(
        {.family = Family::descriptor, .sign = sign, .object = std::move(object), .text = std::move(what), .pages = 0});
  }
  static std::string on_off(bool on) { return on ? "on" : "off"; }

  void describe() {
    std::map<RemoteFd, int> all;
    for (const auto& descriptor : wanted_.descriptors()) all[descriptor.fd];
    for (const auto& descriptor : living_.descriptors())
      if (!is_surplus(descriptor.fd)) all[descriptor.fd];
    for (const auto& [fd, unused] : all) describe_number(fd, wanted_.at(fd), living_.at(fd));
  }

  void describe_number(RemoteFd fd, const model::Descriptor* wanted, const model::Descriptor* there) {
    if (wanted == nullptr) {
      const std::string what = model::describe(living_.file(there->open_file));
      differ(Sign::added, model::name_of(fd, wanted_.tasks()), "opened since: " + what);
      return;
    }
    const OpenFile& file = wanted_.file(wanted->open_file);
    const std::string object = fmt::format("{} ({})", model::name_of(fd, wanted_.tasks()), model::describe(file));
    if (there == nullptr) {
      differ(Sign::removed, object, "closed since");
    } else if (matches_.living_of[wanted->open_file] == there->open_file) {
      if (wanted->close_on_exec != there->close_on_exec) {
        differ(Sign::changed, object,
               fmt::format("close-on-exec {} -> {}", on_off(wanted->close_on_exec), on_off(there->close_on_exec)));
      }
    } else if (!replaced_by_its_like(*wanted, *there)) {
      differ(Sign::changed, object, "replaced since by " + model::describe(living_.file(there->open_file)));
    }
    if (wanted_.numbers(wanted->open_file).front() != fd) return;
    if (matches_.living_of[wanted->open_file]) {
      describe_file(object, file, living_.file(*matches_.living_of[wanted->open_file]));
    } else if (there != nullptr && replaced_by_its_like(*wanted, *there)) {
      describe_file(object, file, living_.file(there->open_file));
    }
  }

  // An object that is made anew only because what it holds cannot be put right in place.
  [[nodiscard]] bool replaced_by_its_like(const model::Descriptor& wanted, const model::Descriptor& there) const {
    return !matches_.living_of[wanted.open_file] && !matches_.wanted_of[there.open_file] &&
           living_.file(there.open_file).same_as == wanted.open_file &&
           compatible(wanted_.file(wanted.open_file), living_.file(there.open_file));
  }

  void describe_file(const std::string& object, const OpenFile& file, const OpenFile& living) {
    const auto changed = [&](std::string what) { differ(Sign::changed, object, std::move(what)); };
    if (((file.status_flags ^ living.status_flags) & kChangeableFlags) != 0) {
      changed(fmt::format("status flags {:#o} -> {:#o}", file.status_flags, living.status_flags));
    }
    if (file.owner != living.owner || file.owner_type != living.owner_type)
      changed(fmt::format("owner {} -> {}", file.owner, living.owner));
    if (file.owner_signal != living.owner_signal)
      changed(fmt::format("signal {} -> {}", file.owner_signal, living.owner_signal));
    if (const auto* const regular = std::get_if<RegularFile>(&file.object); regular != nullptr && regular->memory) {
      const auto now = std::get<RegularFile>(living.object).memory.value_or(model::MemoryFile{});
      if (regular->memory->size != now.size) changed(fmt::format("size {} -> {}", regular->memory->size, now.size));
      if (regular->memory->digest != now.digest) changed("its contents are others");
      if (regular->memory->seals != now.seals)
        changed(fmt::format("seals {:#x} -> {:#x}", regular->memory->seals, now.seals));
    }
    for (std::string& change : lock_changes(file.locks, living.locks)) changed(std::move(change));
    if (position_of(file) != position_of(living)) {
      changed(fmt::format("position {} -> {}", position_of(file).value_or(0), position_of(living).value_or(0)));
    }
    for (std::string& change : changes_of(file, living)) changed(std::move(change));
    if (const auto* const pipe = std::get_if<PipeEnd>(&file.object)) {
      const auto& now = std::get<PipeEnd>(living.object);
      if (!pipe->outside && !same_bytes(*pipe, now)) changed(bytes_text(pipe->bytes, now.bytes));
      if (!pipe->outside && pipe->capacity != now.capacity)
        changed(fmt::format("capacity {} -> {}", pipe->capacity, now.capacity));
    } else if (const auto* const socket = std::get_if<Socket>(&file.object)) {
      for (std::string& change : changes(*socket, std::get<Socket>(living.object))) changed(std::move(change));
    } else if (const auto* const set = std::get_if<EpollSet>(&file.object)) {
      describe_epoll(object, *set, std::get<EpollSet>(living.object));
    }
  }

  [[nodiscard]] bool is_told_as(const EpollEntry& wanted, const EpollEntry& living) const {
    if (wanted.stale || living.stale) return wanted.stale == living.stale && wanted.fd.value == living.fd.value;
    return wanted.fd == living.fd || is_same_entry(wanted, living);
  }
  void describe_epoll(const std::string& object, const EpollSet& set, const EpollSet& now) {
    for (const EpollEntry& entry : set.entries) {
      const auto same = std::ranges::find_if(now.entries, [&](const EpollEntry& e) { return is_told_as(entry, e); });
      if (same == now.entries.end()) {
        differ(Sign::changed, object, fmt::format("watches {} no more", entry.fd.value));
      } else if (!same_events(entry.events, same->events) || entry.data != same->data) {
        differ(Sign::changed, object,
               fmt::format("watches {} for {:#x} -> {:#x}", entry.fd.value, entry.events, same->events));
      }
    }
    for (const EpollEntry& entry : now.entries) {
      if (std::ranges::none_of(set.entries, [&](const EpollEntry& e) { return is_told_as(e, entry); })) {
        differ(Sign::changed, object, fmt::format("watches {} since", entry.fd.value));
      }
    }
  }

  void note_outside() {
    for (std::size_t wanted = 0; wanted < wanted_.files(); ++wanted) {
      const auto* const pipe = wanted_.as<PipeEnd>(wanted);
      if (pipe != nullptr && pipe->outside && matches_.living_of[wanted]) {
        plan_.notes.push_back(
            fmt::format("{}: leads out of the {}; kept with what is in it", name(wanted), wanted_.scope()));
      }
    }
  }

  void assemble() {
    for (std::size_t at = 0; at < watches_.size(); ++at) need_spares(DescriptorOperation(watches_[at]));
    // A listening socket cannot be bound while a connection of its port stands; the other way round it can.
    std::ranges::stable_partition(
        made_, [](const DescriptorOperation& operation) { return !std::holds_alternative<MakeConnection>(operation); });
    note_outside();
    for (auto* const part : {&made_, &imports_, &joined_, &locks_.take, &unwatches_, &closes_, &places_, &locks_.settle,
                             &rights_, &contents_, &watches_}) {
      plan_.operations.insert(plan_.operations.end(), part->begin(), part->end());
    }
  }

  Table wanted_;
  Table living_;
  int tables_;  // those behind are surplus
  Matches matches_;
  Spares spares_;
  TableLocks locks_;
  std::vector<DescriptorOperation> made_, imports_, joined_, unwatches_, closes_, places_, rights_, contents_, watches_;
  DescriptorPlan plan_;
};

}  // namespace

DescriptorPlan plan_descriptors(const DescriptorTable& wanted, const DescriptorTable& living,
                                std::span<const model::Pid> tasks) {
  return Planner(wanted, living, tasks).plan();
}

int table_of(const DescriptorOperation& operation, const DescriptorPlan& plan) {
  const auto home = [&](std::size_t file) { return file < plan.homes.size() ? plan.homes[file] : 0; };
  return std::visit(
      [&]<class Operation>(const Operation& o) {
        if constexpr (requires { o.table; }) {
          return o.table;
        } else if constexpr (requires { o.epoll; }) {
          return o.epoll.table;
        } else if constexpr (requires { o.to; }) {
          return o.to.table;
        } else if constexpr (requires { o.fd; }) {
          return o.fd.table;
        } else if constexpr (std::is_same_v<Operation, TakeLiving> || std::is_same_v<Operation, SetOption> ||
                             std::is_same_v<Operation, MoveSocket>) {
          return o.from.table;
        } else if constexpr (std::is_same_v<Operation, MakePipe>) {
          return home(o.read_end ? *o.read_end : o.write_end.value_or(0));
        } else if constexpr (requires { o.first; }) {
          return home(o.first);
        } else {
          return home(o.file);
        }
      },
      operation);
}

std::string text(const DescriptorOperation& operation, const DescriptorPlan& plan) {
  if (plan.tasks.size() < 2) return text(operation);
  const auto table = static_cast<std::size_t>(table_of(operation, plan));
  return fmt::format("task {}: {}", table < plan.tasks.size() ? plan.tasks[table].value : 0, text(operation));
}

std::vector<std::string> texts(const DescriptorPlan& plan) {
  std::vector<std::string> all;
  for (const DescriptorOperation& operation : plan.operations) all.push_back(text(operation, plan));
  return all;
}

std::string text(const DescriptorOperation& operation) {
  const auto pipe_end = [](const std::optional<std::size_t>& end) {
    return end ? fmt::format("file {}", *end) : std::string("closed");
  };
  return std::visit(
      Overloaded{
          [](const TakeHeld& o) { return fmt::format("give the task the held file {}", o.file); },
          [](const TakeLiving& o) { return fmt::format("keep descriptor {} for file {}", o.from.value, o.file); },
          [](const Import& o) { return fmt::format("give it a number of file {}", o.file); },
          [&](const MakePipe& o) {
            return fmt::format("make a pipe: read end {}, write end {}", pipe_end(o.read_end), pipe_end(o.write_end));
          },
          [](const OpenNamedPipe& o) { return fmt::format("open the named pipe again: file {}", o.file); },
          [](const RefillNamedPipe& o) {
            return fmt::format("named pipe {}: put its unread bytes and its capacity back", o.to.value);
          },
          [](const MakeSelfContained& o) { return fmt::format("make {}: file {}", o.kind, o.file); },
          [](const OpenTerminal& o) { return fmt::format("open the terminal again: file {}", o.file); },
          [](const MakeEpollSet& o) { return fmt::format("make an epoll set: file {}", o.file); },
          [](const WatchByOldNumber& o) {
            return fmt::format("new epoll set of file {}: watch file {} as {} for {:#x}", o.file, o.target, o.number,
                               o.events);
          },
          [](const MakeSocket& o) { return fmt::format("make a socket: file {}", o.file); },
          [](const MakeSocketPair& o) { return fmt::format("make a socket pair: files {} and {}", o.first, o.second); },
          [](const MakeConnection& o) {
            return fmt::format("make a TCP connection: files {} and {}", o.first, o.second);
          },
          [](const MakeHungUp& o) { return fmt::format("make a socket whose peer is gone: file {}", o.file); },
          [](const ConnectSocket& o) { return fmt::format("connect the new socket of file {}", o.file); },
          [](const FillSocket& o) {
            return fmt::format("new socket of file {}: put its unread messages back", o.file);
          },
          [](const EmptySocket& o) { return fmt::format("socket {}: drop its unread messages", o.fd.value); },
          [](const RefillSocket& o) { return fmt::format("socket of file {}: put its unread messages back", o.file); },
          [](const Unwatch& o) { return fmt::format("epoll set {}: watch {} no more", o.epoll.value, o.fd.value); },
          [](const CloseDescriptor& o) { return fmt::format("close descriptor {}", o.fd.value); },
          [](const Place& o) {
            return o.from ? fmt::format("descriptor {}: duplicate of {}", o.to.value, o.from->value)
                          : fmt::format("descriptor {}: file {}", o.to.value, o.file);
          },
          [](const SetCloseOnExec& o) {
            return fmt::format("descriptor {}: close-on-exec {}", o.fd.value, o.on ? "on" : "off");
          },
          [](const SetStatusFlags& o) { return fmt::format("descriptor {}: status flags {:#o}", o.fd.value, o.flags); },
          [](const SetOwner& o) {
            return fmt::format("descriptor {}: owner {}, signal {}", o.fd.value, o.owner, o.signal);
          },
          [](const Seek& o) { return fmt::format("descriptor {}: position {}", o.fd.value, o.position); },
          [](const PutContents& o) { return fmt::format("file {}: put its contents back", o.file); },
          [](const OpenAnew& o) { return fmt::format("open file {} anew", o.file); },
          [](const TakeLocks& o) { return fmt::format("file {}: {}", o.file, text(o.steps)); },
          [](const CloseSpare& o) { return fmt::format("close the spare number of file {}", o.file); },
          [](const SetLocks& o) { return fmt::format("descriptor {}: {}", o.fd.value, text(o.steps)); },
          [](const RefillPipe& o) {
            return fmt::format("pipe {} -> {}: put its unread bytes back", o.write_end.value, o.read_end.value);
          },
          [](const PutRight& o) { return fmt::format("{} {}: put right what it holds", o.kind, o.fd.value); },
          [](const SetOption& o) {
            return fmt::format("socket {}: option {}/{}", o.from.value, o.option.level, o.option.name);
          },
          [](const MoveSocket& o) { return fmt::format("socket {}: bind and connect it as it was", o.from.value); },
          [](const ShutDown& o) { return fmt::format("socket {}: shut down {}", o.fd.value, o.how); },
          [](const Listen& o) { return fmt::format("socket {}: backlog {}", o.fd.value, o.backlog); },
          [](const Watch& o) {
            return fmt::format("epoll set {}: {} {} for {:#x}", o.epoll.value, o.modify ? "watch again" : "watch",
                               o.fd.value, o.events);
          },
      },
      operation);
}

}  // namespace relive::diff
