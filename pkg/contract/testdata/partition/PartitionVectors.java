import java.nio.charset.StandardCharsets;
import java.util.*;
import org.apache.kafka.common.utils.Utils;

/** Prints key, murmur2 and partitions as the Java client computes them. */
public class PartitionVectors {
    public static void main(String[] args) {
        int[] counts = {1, 2, 3, 6, 12, 24, 50, 64};
        Random random = new Random(20260301L);
        List<String> keys = new ArrayList<>(List.of("", "a", "ab", "abc", "abcd", "abcde", "21", "foobar", "a-little-bit-long-string",
            "a-little-bit-longer-string", "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", "Grüße ❤"));
        for (int i = 0; i < 40; i++) {
            String a = new UUID(random.nextLong(), random.nextLong()).toString();
            String b = new UUID(random.nextLong(), random.nextLong()).toString();
            keys.add(a.compareTo(b) <= 0 ? a + ":" + b : b + ":" + a);
        }
        StringBuilder out = new StringBuilder("[\n");
        for (int k = 0; k < keys.size(); k++) {
            byte[] key = keys.get(k).getBytes(StandardCharsets.UTF_8);
            int hash = Utils.murmur2(key);
            out.append("  {\"key\": \"").append(keys.get(k)).append("\", \"murmur2\": ").append(hash).append(", \"partitions\": {");
            for (int i = 0; i < counts.length; i++)
                out.append(i == 0 ? "" : ", ").append("\"").append(counts[i]).append("\": ").append(Utils.toPositive(hash) % counts[i]);
            out.append("}}").append(k + 1 < keys.size() ? ",\n" : "\n");
        }
        System.out.print(out.append("]\n"));
    }
}
