import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BooleanSupplier;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.atomic.DistributedAtomicLong;
import org.apache.curator.framework.recipes.barriers.DistributedBarrier;
import org.apache.curator.framework.recipes.barriers.DistributedDoubleBarrier;
import org.apache.curator.framework.recipes.cache.CuratorCache;
import org.apache.curator.framework.recipes.cache.CuratorCacheListener;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.queue.SimpleDistributedQueue;
import org.apache.curator.framework.recipes.shared.SharedCount;
import org.apache.curator.retry.RetryNTimes;

/** Recipes of Apache Curator, each used by several clients. Arguments: HOST:PORT RECIPE; prints "ok RECIPE". */
public final class CuratorRecipes {
    private static final int CLIENTS = 3;
    private static final List<CuratorFramework> clients = new ArrayList<>();
    private static final ExecutorService threads = Executors.newCachedThreadPool();

    private CuratorRecipes() {}

    public static void main(String[] arguments) throws Exception {
        int code = 1;
        try {
            for (int number = 0; number < CLIENTS; number++) {
                CuratorFramework client =
                        CuratorFrameworkFactory.newClient(arguments[0], 30_000, 15_000, new RetryNTimes(20, 250));
                client.start();
                check(client.blockUntilConnected(15, TimeUnit.SECONDS), "client " + number + " is connected");
                clients.add(client);
            }
            run(arguments[1]);
            for (CuratorFramework client : clients) {
                client.close();
            }
            System.out.println("ok " + arguments[1]);
            code = 0;
        } catch (Throwable failure) {
            failure.printStackTrace(System.out);
        }
        System.exit(code);
    }

    private static void run(String recipe) throws Exception {
        switch (recipe) {
            case "lock": lock(); break;
            case "readwritelock": readWriteLock(); break;
            case "latch": latch(); break;
            case "counter": counter(); break;
            case "barrier": barrier(); break;
            case "cache": cache(); break;
            case "queue": queue(); break;
            default: throw new IllegalArgumentException(recipe);
        }
    }

    private static void check(boolean condition, String what) {
        if (!condition) {
            throw new AssertionError("not so: " + what);
        }
    }

    private static void eventually(BooleanSupplier condition, String what) throws InterruptedException {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(15);
        while (!condition.getAsBoolean()) {
            check(System.nanoTime() < deadline, what);
            Thread.sleep(10);
        }
    }

    private interface Work {
        void with(CuratorFramework client) throws Exception;
    }

    /** Runs the work for all clients at once and waits for its end. */
    private static void together(Work work) throws Exception {
        List<Callable<Void>> calls = new ArrayList<>();
        for (CuratorFramework client : clients) {
            calls.add(() -> {
                work.with(client);
                return null;
            });
        }
        for (Future<Void> done : threads.invokeAll(calls, 60, TimeUnit.SECONDS)) {
            done.get();
        }
    }

    private static void lock() throws Exception {
        AtomicInteger inside = new AtomicInteger();
        AtomicInteger turns = new AtomicInteger();
        together(client -> {
            InterProcessMutex mutex = new InterProcessMutex(client, "/lock");
            for (int turn = 0; turn < 20; turn++) {
                check(mutex.acquire(30, TimeUnit.SECONDS), "the lock is had in time");
                mutex.acquire(); // the same thread may take it twice
                check(inside.incrementAndGet() == 1, "one holder at a time");
                turns.incrementAndGet();
                inside.decrementAndGet();
                mutex.release();
                mutex.release();
            }
        });
        check(turns.get() == 20 * CLIENTS, "all turns were taken");
        InterProcessMutex held = new InterProcessMutex(clients.get(0), "/lock");
        held.acquire();
        check(!new InterProcessMutex(clients.get(1), "/lock").acquire(300, TimeUnit.MILLISECONDS), "it is held");
        clients.get(0).close(); // the end of the session frees the lock
        check(new InterProcessMutex(clients.get(1), "/lock").acquire(10, TimeUnit.SECONDS), "it is free again");
        clients.remove(0);
    }

    private static void readWriteLock() throws Exception {
        InterProcessReadWriteLock one = new InterProcessReadWriteLock(clients.get(0), "/rw");
        InterProcessReadWriteLock two = new InterProcessReadWriteLock(clients.get(1), "/rw");
        one.readLock().acquire();
        check(two.readLock().acquire(10, TimeUnit.SECONDS), "two readers");
        two.readLock().release();
        check(!two.writeLock().acquire(300, TimeUnit.MILLISECONDS), "no writer beside a reader");
        one.readLock().release();
        check(two.writeLock().acquire(10, TimeUnit.SECONDS), "a writer after the reader");
        check(!one.readLock().acquire(300, TimeUnit.MILLISECONDS), "no reader beside a writer");
        two.writeLock().release();
    }

    private static void latch() throws Exception {
        List<LeaderLatch> latches = new ArrayList<>();
        for (CuratorFramework client : clients) {
            LeaderLatch latch = new LeaderLatch(client, "/latch", "id" + latches.size());
            latch.start();
            latches.add(latch);
        }
        while (!latches.isEmpty()) {
            eventually(() -> latches.stream().filter(LeaderLatch::hasLeadership).count() == 1, "there is one leader");
            LeaderLatch leader = latches.stream().filter(LeaderLatch::hasLeadership).findFirst().get();
            check(leader.getLeader().getId().equals(leader.getId()), "its id is known");
            check(leader.getParticipants().size() == latches.size(), "all take part");
            latches.remove(leader);
            leader.close();
        }
    }

    private static void counter() throws Exception {
        together(client -> {
            DistributedAtomicLong number = new DistributedAtomicLong(client, "/atomic", new RetryNTimes(1000, 2));
            for (int turn = 0; turn < 30; turn++) {
                check(number.increment().succeeded(), "an increment succeeds");
            }
        });
        DistributedAtomicLong number = new DistributedAtomicLong(clients.get(0), "/atomic", new RetryNTimes(10, 10));
        check(number.get().postValue() == 30L * CLIENTS, "no increment is lost");
        List<SharedCount> counts = new ArrayList<>();
        for (CuratorFramework client : clients) {
            SharedCount count = new SharedCount(client, "/shared", 7);
            count.start();
            counts.add(count);
        }
        check(counts.get(0).trySetCount(counts.get(0).getVersionedValue(), 8), "the count is set");
        for (SharedCount count : counts) {
            eventually(() -> count.getCount() == 8, "everyone sees it");
            count.close();
        }
    }

    private static void barrier() throws Exception {
        DistributedBarrier gate = new DistributedBarrier(clients.get(0), "/gate");
        gate.setBarrier();
        check(!gate.waitOnBarrier(200, TimeUnit.MILLISECONDS), "the barrier is closed");
        CountDownLatch passed = new CountDownLatch(CLIENTS);
        List<Future<?>> waiting = new ArrayList<>();
        for (CuratorFramework client : clients) {
            waiting.add(threads.submit(() -> {
                check(new DistributedBarrier(client, "/gate").waitOnBarrier(30, TimeUnit.SECONDS), "it opens");
                passed.countDown();
                return null;
            }));
        }
        gate.removeBarrier();
        check(passed.await(15, TimeUnit.SECONDS), "all passed");
        for (Future<?> each : waiting) {
            each.get();
        }
        AtomicInteger inside = new AtomicInteger();
        together(client -> {
            DistributedDoubleBarrier both = new DistributedDoubleBarrier(client, "/both", CLIENTS);
            inside.incrementAndGet();
            check(both.enter(30, TimeUnit.SECONDS), "all enter");
            check(inside.get() == CLIENTS, "nobody enters before all have come");
            check(both.leave(30, TimeUnit.SECONDS), "all leave");
        });
    }

    private static void cache() throws Exception {
        Set<String> events = ConcurrentHashMap.newKeySet();
        CountDownLatch ready = new CountDownLatch(1);
        clients.get(1).create().creatingParentsIfNeeded().forPath("/cache/before", "0".getBytes());
        CuratorCache cache = CuratorCache.build(clients.get(0), "/cache");
        cache.listenable().addListener(CuratorCacheListener.builder()
                .forCreates(data -> events.add("created " + data.getPath()))
                .forChanges((old, data) -> events.add("changed " + data.getPath()))
                .forDeletes(data -> events.add("deleted " + data.getPath()))
                .forInitialized(ready::countDown)
                .build());
        cache.start();
        check(ready.await(15, TimeUnit.SECONDS), "the cache is filled");
        check(cache.size() == 2, "with what was there");
        CuratorFramework other = clients.get(1);
        other.create().creatingParentsIfNeeded().forPath("/cache/a/b", "1".getBytes());
        eventually(() -> events.contains("created /cache/a/b"), "a znode two levels down is seen");
        other.setData().forPath("/cache/a/b", "2".getBytes());
        eventually(() -> events.contains("changed /cache/a/b"), "a change is seen");
        eventually(() -> new String(cache.get("/cache/a/b").get().getData()).equals("2"), "with its data");
        other.delete().deletingChildrenIfNeeded().forPath("/cache/a");
        eventually(() -> events.contains("deleted /cache/a/b") && events.contains("deleted /cache/a"), "deletes too");
        eventually(() -> cache.size() == 2, "nothing more is in the cache");
        cache.close();
    }

    private static void queue() throws Exception {
        int each = 20;
        BlockingQueue<String> taken = new LinkedBlockingQueue<>();
        List<Future<?>> takers = new ArrayList<>();
        for (CuratorFramework client : clients) {
            takers.add(threads.submit(() -> {
                SimpleDistributedQueue queue = new SimpleDistributedQueue(client, "/queue");
                for (int turn = 0; turn < each; turn++) {
                    byte[] item = queue.poll(30, TimeUnit.SECONDS);
                    check(item != null, "an item comes");
                    taken.add(new String(item));
                }
                return null;
            }));
        }
        together(client -> {
            SimpleDistributedQueue queue = new SimpleDistributedQueue(client, "/queue");
            for (int turn = 0; turn < each; turn++) {
                check(queue.offer((clients.indexOf(client) + "." + turn).getBytes()), "an item is put");
            }
        });
        for (Future<?> taker : takers) {
            taker.get(60, TimeUnit.SECONDS);
        }
        check(taken.size() == each * CLIENTS, "all items are taken");
        check(taken.stream().distinct().count() == taken.size(), "each of them once");
        check(clients.get(0).getChildren().forPath("/queue").isEmpty(), "and none is left");
    }
}
