#include "diff/kind_rules.h"

#include <fmt/format.h>

namespace relive::diff {

namespace {

constexpr KindRule kKindRules[] = {
    {"regular file", "position, status flags, close-on-exec, owner and signal (F_SETOWN, F_SETSIG)",
     "what is in the file, its name", "the very same open file, held by the keeper; also when it was deleted"},
    {"memfd", "contents (up to 64 MiB), size, position, flags; seals added since are refused", "",
     "the very same open file, held by the keeper, with a copy of its contents"},
    {"directory", "position, flags", "what is in it", "the very same open file, held by the keeper"},
    {"POSIX lock, of the task", "ranges, read or write; refused where somebody else has it now", "",
     "taken again, also behind every close that lets go of it"},
    {"flock, open file description lock, lease", "ranges, read or write; refused where somebody else has it now", "",
     "the file is opened anew by the keeper's reference to it (O_PATH), and locked again"},
    {"memory device", "position, flags", "", "the very same open file, held by the keeper"},
    {"POSIX message queue", "flags; a notification asked for since (mq_notify) is taken back",
     "the messages in it, its name",
     "the very same queue, held by the keeper; also when it was unlinked; refused where an epoll set watched it"},
    {"terminal (a pseudo-terminal's slave, too)",
     "modes (termios), window size, exclusive mode, flags; the task's group in the foreground",
     "unread input and output; modes and window of a controlling terminal in whose background the task was",
     "opened again by its name; refused where that is another terminal now"},
    {"pseudo-terminal's master, the slave open in the task, too",
     "modes, window size, packet mode, lock, exclusive mode, flags; what was written at either end since is thrown "
     "away",
     "", "refused; the slave alone is opened again"},
    {"pseudo-terminal's master, the slave outside", "window size, packet mode, lock, exclusive mode, flags",
     "modes; the bytes in it", "refused"},
    {"reference to anything (O_PATH)", "", "what it leads to", "the very same reference, held by the keeper"},
    {"pipe inside the task", "unread bytes, also in packets (O_DIRECT), capacity, flags", "",
     "made anew, with its bytes"},
    {"pipe that leads out of the task", "flags", "the bytes in it", "refused"},
    {"named pipe inside the task", "unread bytes, also in packets, capacity, flags", "its name",
     "opened again through the keeper's reference to the file (O_PATH), whatever its name is now"},
    {"named pipe whose other end is outside", "flags", "the bytes in it, its name",
     "opened again, with what is in it then"},
    {"eventfd", "count, flags", "", "made anew"},
    {"timerfd", "time left, interval, unread expirations, flags; see below for absolute ones", "its clock",
     "made anew"},
    {"signalfd", "mask, flags", "", "made anew"},
    {"inotify instance",
     "watches: numbers, files, events; flags; unread events: numbers, kinds, names, order, which belong together; "
     "events "
     "queued since are dropped",
     "what happened to the files", "made anew, with its events; refused where a watched file is not found again"},
    {"pidfd", "flags", "whether its process lives", "opened anew; refused where its process has ended"},
    {"epoll set", "entries: numbers, events, data, also by a number that leads elsewhere by now", "",
     "made anew; a file that was made anew is watched anew"},
    {"socket, fresh, bound or listening (TCP, unix)", "address, options, backlog", "connections waiting to be accepted",
     "made anew; refused if the address was taken by somebody else"},
    {"unix sockets connected inside the task (stream, seqpacket, datagram)",
     "unread messages with their boundaries and the files that travel with them, options, shutdown, ECONNRESET that is "
     "pending",
     "", "made anew, with its messages; a stream or seqpacket socket without the name that it was accepted under"},
    {"unix datagram socket, fresh, bound or connected",
     "name, peer, unread messages with their senders, options, shutdown",
     "what a peer outside has sent to a connected one",
     "made anew, with its messages; refused if its name was taken, or if only a sender outside could send one again"},
    {"UDP socket (IPv4, IPv6; UDP-Lite, too)",
     "address, peer, multicast groups with their source filters, options, unread datagrams with their senders; what "
     "came since is thrown away, also an error that is pending since",
     "",
     "made anew, with its datagrams; refused if its address was taken, or if only a sender outside could send one "
     "again"},
    {"raw and ping socket (IPv4, IPv6), packet socket",
     "address or device and protocol, peer, groups, options, filter; what came since is thrown away", "",
     "made anew; refused where a device is gone, or the id of a ping socket was taken"},
    {"netlink socket (route, generic, uevent and other protocols without a state of their own in the kernel)",
     "port, groups, peer, options; what came since is thrown away", "what it has asked the kernel for",
     "made anew; refused if its port was taken"},
    {"tun and tap device",
     "the interface that it is attached to, whether that stays, header, send buffer, flags; packets that came since "
     "are dropped",
     "the interface itself: addresses, routes, whether it is up",
     "attached again; an interface that is gone is made anew, without addresses and routes; refused where somebody "
     "else has it"},
    {"TCP connection inside the task, also with one half shut down", "unread bytes, options",
     "bytes under way, a half that was closed since",
     "both ends closed: made anew with its addresses and bytes (TCP repair; without CAP_NET_ADMIN both are gone); one: "
     "gone"},
    {"connection to a peer outside (TCP, unix)", "flags, options", "the connection and what is under way in it",
     "gone: the number gets a stream socket whose peer has hung up"},
};

}  // namespace

std::span<const KindRule> kind_rules() { return kKindRules; }

std::string kind_rules_markdown() {
  std::string out = "| kind | goes back | stays as it is | closed since the snapshot |\n|---|---|---|---|\n";
  for (const KindRule& rule : kKindRules) {
    out += fmt::format("| {} | {} | {} | {} |\n", rule.kind, rule.goes_back, rule.stays, rule.closed_since);
  }
  return out;
}

}  // namespace relive::diff
