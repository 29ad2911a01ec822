// The queue of an inotify instance: the kernel lets nobody look at an event without taking it, and nobody put one back.
//
// relive causes the like of it again: watches with the same numbers, for a moment upon files of relive's own, to which
// is done what the events tell. Two rules of the kernel (fs/notify/notification.c, Linux 2.6.13 to 6.18 at least) make
// the queue come out exact: a queue that is full drops what comes, once IN_Q_OVERFLOW stands in it; and removing a
// watch, which queues IN_IGNORED, is dropped like any other. So: the queue is filled, all but the overflow is read off,
// filled again but for the room that the events need, the events are caused, the watches go where they belong, and what
// stands in front of the events is read off. The cookie of a rename is a new one.
#pragma once

#include <span>
#include <vector>

#include "base/result.h"
#include "capture/watched_file.h"
#include "model/watches.h"

namespace relive::capture {

// Makes the events be what a new instance of ours holds, and `watches`, which `files` are for, its watches.
// REQUIRES: it has no watches, and why_not_queued_again(events) is empty. Errors: system; what the instance is then is
// not defined.
Result<void> queue_events(int instance, std::span<const model::InotifyEvent> events,
                          std::span<const model::InotifyWatch> watches, std::span<const int> files);

// What is unread in the instance of a task that stands still: the events are taken out and put back, as above. What
// happens to the watched files meanwhile (milliseconds) is seen by a second instance, and is not lost. The watches
// themselves are away for some microseconds.
// Errors: refused, before anything is done, where a watched file is not found; refused, where some event cannot be put
// back: then IN_Q_OVERFLOW stands behind the others, which tells the program that events were lost; system.
Result<std::vector<model::InotifyEvent>> look_into_queue(const Watcher& watcher, int instance,
                                                         std::span<const model::InotifyWatch> watches);

}  // namespace relive::capture
