package contract

// PartitionOf returns the partition of a key among count, as the Java client's default
// partitioner does: murmur2 with the sign bit cleared, modulo the count. Everyone who
// writes a keyed record names the partition by it, so a key has one place whatever the
// client library.
func PartitionOf(key []byte, count int) int {
	return int(murmur2(key)&0x7fffffff) % count
}

// murmur2 is Austin Appleby's 32-bit MurmurHash2 with the seed that Kafka's
// org.apache.kafka.common.utils.Utils uses.
func murmur2(data []byte) uint32 {
	const (
		seed uint32 = 0x9747b28c
		m    uint32 = 0x5bd1e995
		r           = 24
	)
	h := seed ^ uint32(len(data))
	n := len(data) &^ 3
	for i := 0; i < n; i += 4 {
		k := uint32(data[i]) | uint32(data[i+1])<<8 | uint32(data[i+2])<<16 | uint32(data[i+3])<<24
		k *= m
		k ^= k >> r
		k *= m
		h *= m
		h ^= k
	}
	switch len(data) & 3 {
	case 3:
		h ^= uint32(data[n+2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[n+1]) << 8
		fallthrough
	case 1:
		h ^= uint32(data[n])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}
