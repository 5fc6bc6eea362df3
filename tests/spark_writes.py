"""What Spark writes, by Spark: python tests/spark_writes.py FOLDER, in an environment with pyspark and a JRE.

tests/data/spark holds what it wrote once; tests/data/test_spark.py says what must be read from it.
"""

import sys
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

ROWS = [(number / 16, number * 7 % 16 / 16, "cat" if number % 3 else "dog", 2025 + number % 2) for number in range(24)]


def main(folder):
    spark = (SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
             .config("spark.sql.shuffle.partitions", "2").getOrCreate())
    spark.sparkContext.setLogLevel("ERROR")
    table = spark.createDataFrame(ROWS, "a double, b float, kind string, year int").coalesce(1)
    numbers = table.select("a", "b")

    def written(name):
        return str(Path(folder).resolve() / name)

    numbers.repartition(2).write.parquet(written("parquet"))
    numbers.write.option("compression", "zstd").parquet(written("parquet_zstd"))
    three = numbers.repartitionByRange(3, "a").filter("a < 0.5 or a >= 1")
    three.write.parquet(written("parquet_with_an_empty_part"))
    table.drop("kind").write.partitionBy("year").parquet(written("parquet_by_year"))
    lists = table.select(F.array("a", "b").alias("features"), "kind")
    lists.write.partitionBy("kind").parquet(written("lists_by_kind"))
    table.drop("kind").write.option("compression", "snappy").orc(written("orc_snappy"))
    table.drop("kind").write.option("compression", "zstd").partitionBy("year").orc(written("orc_by_year"))
    table.write.option("header", True).csv(written("csv"))
    three.write.option("header", True).csv(written("csv_with_an_empty_part"))
    table.write.option("header", True).partitionBy("year", "kind").csv(written("csv_by_year_and_kind"))
    for codec in ("gzip", "bzip2", "deflate", "lz4", "snappy"):
        numbers.write.option("compression", codec).csv(written(f"csv_{codec}"))
    table.select(F.concat_ws(" ", "a", "b")).write.option("compression", "snappy").text(written("text_snappy"))
    numbers.rdd.map(lambda row: f"{row.a} {row.b}").saveAsTextFile(written("text"))


if __name__ == "__main__":
    main(sys.argv[1])
