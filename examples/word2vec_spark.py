"""gensim's Word2Vec on a text that Spark has tokenised: rank 0 holds the model, workers read Spark's partitions.

    make word2vec-spark                # an environment with Spark and gensim, then this file on 1 server and 2 workers
    mpirun -n 3 python examples/word2vec_spark.py [--epochs 20]

Each rank has a Spark session of its own with the same plan in it: here each on one thread of this machine; on a cluster
`master` may be the cluster's. What is trained, and how it is compared at the end, is that of word2vec.py beside it.
"""

import argparse
import os
import sys
import time

import numpy as np
from gensim.models import Word2Vec
from gensim.test.utils import datapath
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from word2vec import SETTINGS, SkipGram, compare, numbered, parameters

import pyddl
from pyddl.callbacks import AdaGradDescent

os.environ.setdefault("PYSPARK_PYTHON", sys.executable)


def session():
    settings = {"spark.ui.enabled": "false", "spark.sql.shuffle.partitions": "4", "spark.log.level": "ERROR",
                "spark.ui.showConsoleProgress": "false", "spark.driver.host": "127.0.0.1"}
    builder = SparkSession.builder.master("local[1]").appName("word2vec")
    for name, value in settings.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--epochs", type=int, default=20)
    options.add_argument("--partitions", type=int, default=4)
    options.add_argument("--batch-size", type=int, default=20, help="documents of all workers together")
    options.add_argument("--learning-rate", type=float, default=0.1)
    options = options.parse_args()

    spark = session()
    letters = F.split(F.lower(F.col("value")), "[^a-z]+")
    stories = spark.read.text(datapath("lee_background.cor")).select(
        F.filter(letters, lambda word: F.length(word).between(2, 15)).alias("words"))
    stories = stories.repartition(options.partitions).cache()
    counted = stories.select(F.explode("words").alias("word")).groupBy("word").count().orderBy(F.desc("count"), "word")
    model = Word2Vec(seed=1, **SETTINGS)
    model.build_vocab_from_freq({row["word"]: row["count"] for row in counted.collect()}, corpus_count=stories.count())

    skip_gram = SkipGram(model, np.random.default_rng(pyddl.world().rank))

    def gradient(model, rows):
        return skip_gram(model, numbered([row.words for row in rows], model))

    begin = time.process_time()
    with pyddl.ParameterServer(model, parameters=parameters) as server:
        report = server.train(stories, gradient, AdaGradDescent(parameters, options.learning_rate),
                              batch_size=options.batch_size, epochs=options.epochs, shuffle=True)
    processors = sum(pyddl.world().transport.gather_objects(time.process_time() - begin))
    if pyddl.world().rank == 0:
        compare(model, report, processors, [row.words for row in stories.collect()], options.epochs)
    spark.stop()


if __name__ == "__main__":
    main()
