# Computes the statistics of `hippo-nnunet compare` again with R's packages, and compares.
#
#     Rscript experiments/check_statistics.R EXPERIMENT
#
# EXPERIMENT has metrics/per_case.csv, metrics/comparison.csv, metrics/volumetry.csv and subjects.csv, such as
# results/task04-laptop. Needs the packages boot, coin, psych and sandwich (Debian: r-cran-*). Prints the largest deviation
# of each column and exits with 1 if one is above its tolerance. The bootstraps of both sides are random: their ends may
# differ by a share of the interval's width; all else has to agree to rounding.

suppressPackageStartupMessages({
  library(boot)
  library(coin)
  library(psych)
  library(sandwich)
})

BOOTSTRAP <- c("low", "high", "low_equivalence", "high_equivalence")
BOOTSTRAP_TOLERANCE <- 0.06 # of the interval's width: Monte Carlo error of two bootstraps, and the linearised ratio
EXACT_TOLERANCE <- 1e-4 # relative: quadrature and optimisers differ in the last digits
MIN_FOLD_SUBJECTS <- 10

folder <- commandArgs(trailingOnly = TRUE)[1]
if (is.na(folder)) stop("name an experiment: Rscript experiments/check_statistics.R EXPERIMENT")
read <- function(...) read.csv(file.path(folder, ...), check.names = FALSE, stringsAsFactors = FALSE)
cases <- read("metrics", "per_case.csv")
pairs <- read("metrics", "comparison.csv")
subject_of <- with(read("subjects.csv"), setNames(subject, case))

# The mean difference of each case that both models have, over labels or of one, seeds averaged first; positive: the first
# is better.
differences <- function(pair) {
  of_model <- function(variant, configuration) {
    rows <- cases[sub("_seed[0-9]+$", "", cases$variant) == variant & cases$configuration == configuration, ]
    if (pair$scope != "mean") rows <- rows[rows$label == pair$scope, ]
    aggregate(rows[pair$metric], rows[c("case", "fold")], mean)
  }
  both <- merge(
    of_model(pair$variant, pair$configuration), of_model(pair$against, pair$against_configuration),
    by = c("case", "fold")
  )
  sign <- if (pair$metric %in% c("hd95_mm", "assd_mm")) -1 else 1
  data.frame(
    d = sign * (both[[3]] - both[[4]]), fold = both$fold,
    subject = ifelse(both$case %in% names(subject_of), subject_of[both$case], both$case)
  )
}

# Bootstrap of whole subjects, within folds where no subject is in two: the mean over cases is a ratio of two totals.
intervals <- function(values, level) {
  totals <- aggregate(cbind(d, n) ~ subject, transform(values, n = 1), sum)
  folds <- tapply(values$fold, values$subject, function(fold) if (length(unique(fold)) == 1) fold[1] else NA)
  strata <- as.vector(folds[totals$subject])
  if (anyNA(strata) || min(table(strata)) < MIN_FOLD_SUBJECTS) strata <- rep(1, nrow(totals))
  ratio <- function(data, index) sum(data$d[index]) / sum(data$n[index])
  set.seed(1)
  resampled <- boot(totals, ratio, R = 9999, strata = factor(strata))
  sapply(level, function(one) boot.ci(resampled, conf = one, type = "bca")$bca[4:5])
}

computed <- function(pair) {
  values <- differences(pair)
  fit <- lm(d ~ 1, values)
  subjects <- length(unique(values$subject))
  error <- sqrt(vcovCL(fit, cluster = values$subject, type = "HC0", cadj = TRUE)[1, 1])
  mean <- unname(coef(fit))
  ends <- intervals(values, c(1 - pair$alpha, 1 - 2 * pair$alpha))
  summary <- tapply(values$d, values$subject, mean.default)
  small <- length(summary) <= 50 && all(summary != 0) && !anyDuplicated(abs(summary)) # as scipy chooses
  ranked <- wilcoxsign_test(
    summary ~ rep(0, length(summary)),
    zero.method = "Pratt", distribution = if (small) "exact" else "asymptotic"
  )
  positive <- unname(suppressWarnings(wilcox.test(summary[summary != 0], exact = FALSE))$statistic)
  all_ranks <- sum(seq_len(sum(summary != 0)))
  family <- pairs$family == pair$family
  power <- power.t.test(
    n = subjects, sd = error * sqrt(subjects), sig.level = pair$alpha / sum(family), power = 0.8, type = "paired",
    strict = TRUE, tol = 1e-10
  )
  result <- c(
    n = nrow(values), subjects = subjects, difference = mean, sd = sd(values$d),
    low = ends[1, 1], high = ends[2, 1], low_equivalence = ends[1, 2], high_equivalence = ends[2, 2],
    p_wilcoxon = pvalue(ranked),
    p_holm = p.adjust(pairs$p_wilcoxon[family], "holm")[pairs$row[family] == pair$row],
    p_equivalence = max(
      pt((mean + pair$rope) / error, subjects - 1, lower.tail = FALSE), pt((mean - pair$rope) / error, subjects - 1)
    ),
    rank_biserial = 2 * positive / all_ranks - 1, cohens_dz = mean / sd(values$d), detectable = power$delta
  )
  folds <- tapply(values$d, values$fold, mean.default)
  if (length(folds) > 1 && pair$kind != "published") {
    # Nadeau and Bengio 2003: of J folds each tests 1 / J of the cases, and trains on the others
    corrected <- sqrt((1 / length(folds) + 1 / (length(folds) - 1)) * var(folds))
    half <- qt(1 - pair$alpha / 2, length(folds) - 1) * corrected
    result <- c(
      result,
      fold_sd = sd(folds), low_retrained = mean(folds) - half, high_retrained = mean(folds) + half,
      p_retrained = 2 * pt(-abs(mean(folds) / corrected), length(folds) - 1)
    )
  }
  result
}

pairs$row <- seq_len(nrow(pairs))
deviations <- list()
note <- function(column, deviation) deviations[[column]] <<- max(deviation, deviations[[column]], na.rm = TRUE)
for (row in pairs$row) {
  pair <- as.list(pairs[row, ])
  if (pair$kind == "published") next
  found <- computed(pair)
  for (column in names(found)) {
    width <- if (column %in% BOOTSTRAP) pair$high - pair$low else max(abs(pair[[column]]), 1e-12)
    note(column, abs(found[[column]] - pair[[column]]) / width)
  }
}

# Agreement of volumes: bias, exact limits of agreement, ICC(A,1)
volumes <- read("metrics", "volumetry.csv")
for (row in seq_len(nrow(volumes))) {
  of <- as.list(volumes[row, ])
  rows <- cases[cases$variant == of$variant & cases$configuration == of$configuration & cases$label == of$label, ]
  d <- rows$volume_mm3 - rows$volume_ref_mm3
  icc <- suppressWarnings(suppressMessages(ICC(cbind(rows$volume_mm3, rows$volume_ref_mm3), lmer = FALSE)))$results
  expected <- c(
    bias_mm3 = mean(d), sd_mm3 = sd(d), lower_mm3 = mean(d) - qnorm(0.975) * sd(d),
    upper_mm3 = mean(d) + qnorm(0.975) * sd(d), icc = icc["Single_random_raters", "ICC"]
  )
  for (column in names(expected)) note(column, abs(expected[[column]] - of[[column]]) / abs(of[[column]]))
}

report <- data.frame(column = names(deviations), largest_deviation = signif(unlist(deviations), 3), row.names = NULL)
report$tolerance <- ifelse(report$column %in% BOOTSTRAP, BOOTSTRAP_TOLERANCE, EXACT_TOLERANCE)
report$unit <- ifelse(report$column %in% BOOTSTRAP, "of the interval's width", "relative")
print(report, row.names = FALSE, right = FALSE)
quit(status = as.integer(any(report$largest_deviation > report$tolerance)))
